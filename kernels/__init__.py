"""Quantization methods, packed formats, fused attention and the mlx-lm cache."""
