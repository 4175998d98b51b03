"""Formats: bytes to documents and queries, and results back to bytes."""
