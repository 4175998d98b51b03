"""Rank documents against a query with a cross-encoder."""
