"""Running engines as subjects: measures an OpenAI-compatible endpoint over the network. Loads no models itself."""
