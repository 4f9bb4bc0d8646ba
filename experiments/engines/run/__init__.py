"""Engines started from here: their flags, their processes, and what they say of the next token."""
