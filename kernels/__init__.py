"""Quantization methods, packed formats, fused attention and the mlx-lm cache. Knows nothing of trials or stores."""
