"""Compute back-ends: one file each, found by its name."""
