"""The peer of `benchmarks.endtoend` in torch: transformers' Llama with SDPA, cache and weights in 16 bit."""

from __future__ import annotations

import time
from functools import cache
from typing import Any

from benchmarks._endtoend_subject import SHAPES

STEPS, ROUNDS = 32, 3


def cell(name: str, job: str, depth: int, batch: int, chunk: int) -> dict[str, Any]:
    """Milliseconds of every round, and gigabytes, as `endtoend.cell` has them.

    Raises:
        RuntimeError: torch or transformers is not installed, sees no GPU, or has too little memory.
    """
    try:
        import torch
        from transformers import DynamicCache
    except ImportError as error:
        raise RuntimeError(f"{error.name} is not installed") from error
    model, config = _model(name)
    head = config.hidden_size // config.num_attention_heads
    past = DynamicCache()
    for layer in range(config.num_hidden_layers):
        shape = (2, batch, config.num_key_value_heads, depth, head)
        keys, values = torch.randn(shape, dtype=torch.float16, device="cuda") if depth else torch.empty(2, 0)
        if depth:
            past.update(keys, values, layer)
    torch.cuda.synchronize()
    held, times = torch.cuda.memory_allocated(), []
    torch.cuda.reset_peak_memory_stats()
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        if job == "prefill":
            tokens = torch.randint(0, config.vocab_size, (batch, chunk), device="cuda")
            with torch.inference_mode():
                model(tokens, past_key_values=past, use_cache=True, logits_to_keep=1)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - started) * 1e3)
            past.crop(-chunk)
        else:
            token = torch.ones((batch, 1), dtype=torch.long, device="cuda")
            with torch.inference_mode():
                for _ in range(STEPS):
                    token = model(token, past_key_values=past, use_cache=True).logits[:, -1:].argmax(-1)
            torch.cuda.synchronize()
            times.append((time.perf_counter() - started) / STEPS * 1e3)
            past.crop(-STEPS)
    nbytes = 2 * 2 * batch * config.num_hidden_layers * config.num_key_value_heads * head * depth
    peak = torch.cuda.max_memory_allocated() / 1e9
    del past
    torch.cuda.empty_cache()
    return {"ms": times[1:], "active_gb": held / 1e9, "peak_gb": peak, "cache_gb": nbytes / 1e9}


@cache
def _model(name: str) -> tuple[Any, Any]:
    """A Llama with random weights on the GPU, and its configuration."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    if not torch.cuda.is_available():
        raise RuntimeError("torch sees no GPU")
    sizes = next(shape.config for shape in SHAPES if shape.name == name)
    config = LlamaConfig(**{**sizes, "max_position_embeddings": 262_144})
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(default)
    return model, config
