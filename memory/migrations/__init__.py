"""Schema migrations of the shared memory, run by `swarm.memory.schema`."""
