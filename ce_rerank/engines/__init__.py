"""Engines: what scores pairs, on which device, at which precision."""
