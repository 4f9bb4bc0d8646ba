"""The analysts, one per file; `agents.base.analysts()` finds them."""
