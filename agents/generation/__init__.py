"""Generates proposals: which kind of trial comes next, and which configuration it tries."""
