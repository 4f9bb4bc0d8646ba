"""Reads results: statistics, comparisons, claims and their verdicts."""
