"""The samplers: each one is a way to come up with a new configuration, in a file of its own."""
