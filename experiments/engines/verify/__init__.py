"""Whether a running server corrupts its KV cache: paired log-probabilities with and without each of its features."""
