"""Models: what is known about them, and how one is found, fetched and prepared."""
