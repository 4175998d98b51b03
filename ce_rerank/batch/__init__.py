"""Many queries, for hours: what is read, ranked and written is bounded, safe, and can be continued."""
