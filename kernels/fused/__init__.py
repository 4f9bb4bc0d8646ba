"""Fused kernels over packed caches: one body of source, compiled for Metal, CUDA, and the CPU of a test machine."""
