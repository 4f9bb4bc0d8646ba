"""LLM minds: any OpenAI-compatible endpoint, its weather, its cost, and what may be believed of its answers."""
