"""The models of `benchmarks.endtoend`: made by shape with random weights, or bundled; caches are filled at will."""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from benchmarks._endtoend_page import OURS, OWN_SIXTEEN, SIXTEEN

from swarm.kernels import layers
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.model_cache import make_cache, split
from swarm.kernels.spec import KVSpec, QuantSpec

GROUP, BITS = 64, 4  # of the random weights
FORMATS = {OURS: QuantSpec(method="affine"), "ours, q8_0": QuantSpec(method="q8_0")}
MLX_LM_BITS = {"mlx-lm 8 bit": 8, "mlx-lm 4 bit": 4}
FILL_TOKENS = 8192  # with which a cache is filled at a time
UNTIMED_STEPS = {"gpu": 4, "cpu": 1}  # before those that are timed
LLAMA = {"model_type": "llama", "rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": False}

Array = Any
Caches = list[Any]


@dataclass(frozen=True)
class Shape:
    """A model by the configuration of its family in mlx-lm; `batched`: also several sequences at a time."""

    name: str
    config: Mapping[str, Any]
    batched: bool = False


def _llama(hidden: int, layers: int, inner: int, q_heads: int, kv_heads: int, vocabulary: int) -> dict[str, Any]:
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "intermediate_size": inner}
    heads = {"num_attention_heads": q_heads, "num_key_value_heads": kv_heads}
    return {**LLAMA, **sizes, **heads, "vocab_size": vocabulary}


SHAPES = (
    Shape("Llama 3.1 8B", _llama(4096, 32, 14_336, 32, 8, 128_256), batched=True),
    Shape("Llama 3.1 70B", _llama(8192, 80, 28_672, 64, 8, 128_256)),
    Shape(
        "Gemma 4 31B",
        {
            "model_type": "gemma4_text", "hidden_size": 5376, "intermediate_size": 21_504, "num_hidden_layers": 60,
            "num_attention_heads": 32, "num_key_value_heads": 16, "num_global_key_value_heads": 4, "head_dim": 256,
            "global_head_dim": 512, "vocab_size": 262_144, "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6,
            "sliding_window": 1024, "sliding_window_pattern": 6, "num_kv_shared_layers": 0,
            "hidden_size_per_layer_input": 0, "use_double_wide_mlp": False, "attention_k_eq_v": True,
        },
    ),
    Shape(
        "Qwen3-Next 80B-A3B",
        {
            "model_type": "qwen3_next", "hidden_size": 2048, "intermediate_size": 5120, "num_hidden_layers": 48,
            "num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 256, "vocab_size": 151_936,
            "max_position_embeddings": 262_144, "rms_norm_eps": 1e-6, "rope_theta": 1e7, "partial_rotary_factor": 0.25,
            "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts": 512,
            "num_experts_per_tok": 10, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
            "full_attention_interval": 4, "linear_num_value_heads": 32, "linear_num_key_heads": 16,
            "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_conv_kernel_dim": 4,
        },
    ),
)  # fmt: skip
TINY = Shape("tiny Llama", _llama(256, 2, 512, 4, 2, 1000))


@dataclass(frozen=True)
class Steps:
    """Milliseconds of single steps of decoding, and of building their graphs in Python."""

    ms: list[float]
    build_ms: list[float]

    @classmethod
    def of(cls, stamps: Sequence[float], built: Sequence[float]) -> Steps:
        """Steps between points in time; all in seconds."""
        return cls([(late - early) * 1e3 for early, late in pairwise(stamps)], [took * 1e3 for took in built])

    @property
    def mean(self) -> float:
        """Milliseconds per step."""
        return statistics.mean(self.ms)


def where() -> str:
    """`gpu` or `cpu`: what MLX computes on."""
    import mlx.core as mx

    return "gpu" if mx.default_device() == mx.Device(mx.gpu) else "cpu"


class Subject:
    """A model under test.

    Args:
        name: what it is called.
        model: the mlx-lm model.
        dtype: the type that it computes in.
        vocabulary: tokens that prompts are drawn from.
        batched: whether several sequences are decoded at a time too.
    """

    def __init__(self, name: str, model: Any, dtype: Any, vocabulary: int, *, batched: bool = False) -> None:
        self.name = name
        self.model = model
        self.dtype = dtype
        self.vocabulary = vocabulary
        self.batched = batched
        self.traced = layers.trace(model)

    @classmethod
    def of_shape(cls, shape: Shape) -> Subject:
        """Random weights of 4 bits whose products have the size of a trained model's."""
        import mlx.core as mx
        from mlx import nn
        from mlx.utils import tree_map_with_path

        module = importlib.import_module(f"mlx_lm.models.{shape.config['model_type']}")
        model = module.Model(module.ModelArgs.from_dict(dict(shape.config)))
        dtype = mx.float16 if where() == "gpu" else mx.float32  # in which models run there
        leaves = tree_map_with_path(
            lambda _, leaf: _drawn(leaf, dtype), model.leaf_modules(), is_leaf=nn.Module.is_module
        )
        model.update_modules(leaves)
        model.set_dtype(dtype)
        mx.eval(model.parameters())
        return cls(shape.name, model, dtype, int(shape.config["vocab_size"]), batched=shape.batched)

    @classmethod
    def bundled(cls, name: str) -> Subject:
        """A bundled model, as every command loads it."""
        from swarm.experiments.models import registry

        loaded = registry.load(name)
        return cls.over(loaded.model, name)

    @classmethod
    def over(cls, model: Any, name: str) -> Subject:
        """A bundled model that is loaded."""
        return cls(name, model, model.parameters()["model"]["norm"]["weight"].dtype, 1000)

    def fill(self, caches: Caches, tokens: int, batch: int) -> None:
        """Append random keys and values to every cache of such."""
        import mlx.core as mx

        kept, _ = split(caches, self.traced)
        shapes = [layer.shape for layer in self.traced if layer.place is not None]
        for cache, shape in zip(kept, shapes, strict=True):
            append = cache.append if isinstance(cache, PackedKVCache) else cache.update_and_fetch
            done = 0
            while done < tokens:
                size = min(FILL_TOKENS, tokens - done)
                sides = (
                    mx.random.normal((batch, shape.kv_heads, size, dim)).astype(self.dtype)
                    for dim in (shape.key_dim, shape.value_dim)
                )
                append(*sides)
                mx.eval(cache.state)
                done += size

    def paths(self) -> dict[str, Callable[[], Caches]]:
        """Ways to cache, ours first."""
        from mlx_lm.models.cache import QuantizedKVCache, make_prompt_cache

        found: dict[str, Callable[[], Caches]] = {
            name: lambda spec=spec: list(make_cache(self.model, KVSpec(key=spec, value=spec)))
            for name, spec in FORMATS.items()
        }
        if where() == "cpu":
            found[OWN_SIXTEEN] = lambda: list(make_cache(self.model))
        found[SIXTEEN] = lambda: make_prompt_cache(self.model)
        if all(kind == "KVCache" for kind in {type(cache).__name__ for cache in make_prompt_cache(self.model)}):
            for name, bits in MLX_LM_BITS.items():
                found[name] = lambda bits=bits: [QuantizedKVCache(64, bits) for _ in self.traced]
        return found

    def decode(self, caches: Caches, steps: int, batch: int) -> Steps:
        """So many steps of greedy decoding, through mlx-lm's `generate_step` for one sequence."""
        import mlx.core as mx
        from mlx_lm.generate import generate_step

        if batch > 1:
            return self.decode_together(caches, steps, batch)
        built: list[float] = []

        def model(tokens: Array, cache: Caches) -> Array:
            started = time.perf_counter()
            logits = self.model(tokens, cache=cache)
            built.append(time.perf_counter() - started)
            return logits

        untimed = UNTIMED_STEPS[where()]
        tokens = generate_step(mx.array([1]), model, prompt_cache=caches, max_tokens=steps + untimed)
        stamps = [time.perf_counter() for _ in tokens]
        return Steps.of(stamps[untimed - 1 :], built[untimed:])

    def decode_together(self, caches: Caches, steps: int, batch: int) -> Steps:
        """So many steps of as many sequences, each built while the one before it is computed."""
        import mlx.core as mx

        untimed = UNTIMED_STEPS[where()]
        stamps, built = [], []
        y = mx.ones((batch, 1), mx.int32)
        for _ in range(steps + untimed):
            started = time.perf_counter()
            logits = self.model(y, cache=caches)
            built.append(time.perf_counter() - started)
            following = mx.argmax(logits[:, -1:], axis=-1)
            mx.async_eval(following)
            mx.eval(y)
            stamps.append(time.perf_counter())
            y = following
        mx.eval(y)
        stamps.append(time.perf_counter())
        return Steps.of(stamps[untimed:], built[untimed:])

    def prefill(self, caches: Caches, chunk: int) -> float:
        """Milliseconds that a chunk of a prompt takes behind what the caches hold."""
        import mlx.core as mx

        tokens = mx.random.randint(0, self.vocabulary, (1, chunk))
        mx.eval(tokens)
        mx.synchronize()
        started = time.perf_counter()
        self.model(tokens, cache=caches)
        mx.eval([cache.state for cache in caches])
        mx.synchronize()
        return (time.perf_counter() - started) * 1e3


def _drawn(module: Any, dtype: Any) -> Any:
    """A matrix of a module in 4 bits, drawn at random; other modules as they are."""
    import mlx.core as mx
    from mlx import nn
    from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

    packed = {nn.Linear: nn.QuantizedLinear, nn.Embedding: nn.QuantizedEmbedding, SwitchLinear: QuantizedSwitchLinear}
    kind = packed.get(type(module))
    if kind is None or module.weight.shape[-1] % GROUP:
        return module
    *stack, rows, columns = module.weight.shape
    sizes = (rows, columns) if kind is nn.QuantizedEmbedding else (columns, rows, *stack)
    options = {} if kind is nn.QuantizedEmbedding else {"bias": False}
    made = kind(*sizes, group_size=GROUP, bits=BITS, **options)
    scale = (1 if kind is nn.QuantizedEmbedding else columns**-0.5) / 4.6  # uniform codes deviate by 4.6
    halves = mx.random.randint(0, 2**16, (*stack, rows, columns * BITS // 16)).astype(mx.uint16)
    made.weight = halves.view(mx.uint32)
    made.scales = mx.full((*stack, rows, columns // GROUP), scale, dtype)
    made.biases = mx.full((*stack, rows, columns // GROUP), -7.5 * scale, dtype)
    mx.eval(made.parameters())
    return made
