"""LLM roles: any OpenAI-compatible endpoint, its failures, its cost, and what of its answers is believed."""
