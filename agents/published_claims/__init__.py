"""Published claims: the trials that decide them, and the verdicts."""
