"""The analysts, one per file; `agents.analysis.base.analysts()` finds them."""
