"""The kinds of trial, one per file: each chooses the trial for its turns in the schedule."""
