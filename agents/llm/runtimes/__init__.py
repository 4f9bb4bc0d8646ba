"""What runs a local LLM: each module serves one model on a port of loopback until its process ends."""
