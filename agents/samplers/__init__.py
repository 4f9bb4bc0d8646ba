"""The built-in minds that propose configurations, one per file."""
