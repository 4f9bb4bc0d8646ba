"""The kinds of test that a claim can ask for, one per file."""
