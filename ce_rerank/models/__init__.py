"""Models: what is known, where it lies, and how it is made ready."""
