"""The subcommands of `swarm`, one per file."""
