"""Models by name, ready to run: see `registry`."""
