"""Runs one trial: the model under test, its 16-bit reference run, and the numbers that are taken."""
