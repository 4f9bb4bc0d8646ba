"""What one trial measures: one file per protocol, found by its name."""
