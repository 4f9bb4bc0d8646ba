"""Optuna behind the samplers: one in-memory study per model, rebuilt from the store."""
