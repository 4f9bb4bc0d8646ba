"""The shared memory and the right to propose, for any coding agent: a server of the Model Context Protocol."""
