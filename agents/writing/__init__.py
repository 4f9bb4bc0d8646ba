"""Writes summaries in which every number is a reference to the store."""
