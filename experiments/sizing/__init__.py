"""What a model's weights and KV cache cost in memory, and what that allows on a machine. Arithmetic, no measuring."""
