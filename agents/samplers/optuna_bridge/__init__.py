"""Optuna behind the search space: one study per model, rebuilt from the history, and a faster TPE."""
