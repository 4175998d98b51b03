"""The CPU engine: checkpoints compiled to OpenVINO, kept in the cache, scored without torch."""
