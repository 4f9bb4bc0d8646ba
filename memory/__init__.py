"""The shared memory: the one database that proposals, trials, findings and summaries live in."""
