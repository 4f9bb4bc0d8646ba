"""What fits: weights, KV cache and overhead of a model on a machine, per method and context.

Predicts from arithmetic; measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from swarm.experiments.sizing.explain import notes
from swarm.experiments.sizing.machines import Machine
from swarm.experiments.sizing.method import UNPACKED_BITS, KVMethod, kv_bytes, per_token
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import SpecError, UsageError
from swarm.kernels.spec import FrozenModel

# MLX's 4-bit layout (a 16-bit scale and bias per group of 64): how most people run models on their own machines.
DEFAULT_WEIGHTS_BITS = 4.5
CONTEXTS = (16 << 10, 64 << 10, 128 << 10)
# The rest: runtime and kernels, and the activations of one prefill step of mlx-lm (2,048 tokens) in 16 bit.
RUNTIME_BYTES = 256 << 20
"""Of an engine beside weights, cache and activations."""
PREFILL_TOKENS = 2048
"""Tokens of a prompt whose activations are held at once."""
UNLIMITED = 1 << 40
"""Tokens beyond which a context counts as unlimited."""


class Weights(FrozenModel):
    """Bytes of the weights, the part that one token reads, and bits per weight (None: as they are on disk, mixed)."""

    n_bytes: int
    active_bytes: int
    bits: float | None
    assumed: bool


class Cost(FrozenModel):
    """What one context costs.

    `fits` is None without a machine; `tokens_per_second` is None without a bandwidth and where it does not fit.
    """

    context: int
    kv_bytes: int
    total_bytes: int
    fits: bool | None
    tokens_per_second: float | None
    beyond_trained: bool


class MethodPlan(FrozenModel):
    """One method: exact bits per value, cache bytes per further token, costs, and the largest context that fits.

    `bytes_per_token` counts the layers that see everything; `bytes_per_token_first` all layers, which is what a token
    costs until the windows are full. `largest_context` is 0 when not even the weights fit, None without a machine or
    when the cache does not grow (`unlimited`).
    """

    label: str
    bits_per_value: float
    key_bits: float
    value_bits: float
    bytes_per_token: float
    bytes_per_token_first: float
    costs: tuple[Cost, ...]
    largest_context: int | None
    unlimited: bool
    beyond_trained: bool


class Plan(FrozenModel):
    """The whole answer. Speeds are predictions: an upper bound from the bytes that one token must read."""

    model: ModelShape
    machine: Machine | None
    weights: Weights
    overhead_bytes: int
    methods: tuple[MethodPlan, ...]
    refused: dict[str, str]
    notes: tuple[str, ...]


def weights(model: ModelShape, bits: float | None = None) -> Weights:
    """Bytes of a model's weights at so many bits per weight; by default as they are on disk, else 4.5.

    Raises:
        UsageError: the bits make no sense, or the weights are not known.
    """
    if bits is not None and not 0 < bits <= 32:
        raise UsageError(f"--weights-bits is {bits:g}.", "Give a number between 0 and 32, such as 16, 8.5 or 4.5.")
    share = (model.active_parameters or 1) / (model.parameters or 1) if model.parameters else 1.0
    if bits is None and model.weight_bytes is not None:
        total = model.weight_bytes
        bits_found = 8 * total / model.parameters if model.parameters else None
        return Weights(n_bytes=total, active_bytes=math.ceil(total * share), bits=bits_found, assumed=False)
    if model.parameters is None:
        raise UsageError(
            f"the number of weights of {model.name} is not known.", "Give the directory or GGUF file with its weights."
        )
    chosen = bits or model.weights_bits or DEFAULT_WEIGHTS_BITS
    total = math.ceil(model.parameters * chosen / 8)
    assumed = bits is None and model.weights_bits is None
    return Weights(n_bytes=total, active_bytes=math.ceil(total * share), bits=chosen, assumed=assumed)


def overhead(model: ModelShape) -> int:
    """Estimated bytes beside weights and cache: the runtime, and the activations of one prefill step."""
    per_token = 4 * model.hidden_size + 2 * model.intermediate_size
    return RUNTIME_BYTES + PREFILL_TOKENS * per_token * UNPACKED_BITS // 8


def largest_context(model: ModelShape, method: KVMethod, available: int) -> int | None:
    """The largest context whose cache takes at most `available` bytes; None when there is no limit.

    Raises:
        SpecError: the method does not fit the model's head size.
    """
    if available < 0:
        return 0
    low, high = 0, 1
    while kv_bytes(model, method, high) <= available:
        low, high = high, high * 2
        if high > UNLIMITED:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kv_bytes(model, method, middle) <= available else (low, middle)
    return low


def make(
    model: ModelShape,
    methods: Sequence[KVMethod],
    *,
    machine: Machine | None = None,
    contexts: Sequence[int] = (),
    weights_bits: float | None = None,
    overhead_bytes: int | None = None,
) -> Plan:
    """Work out what fits.

    Args:
        model: its shape.
        methods: the KV methods to compare; those that do not fit the head size are listed in `refused`.
        machine: what it shall fit in.
        contexts: tokens; by default 16K, 64K, 128K and the trained window.
        weights_bits: bits per weight; by default as they are on disk, else 4.5.
        overhead_bytes: bytes beside weights and cache; by default estimated.

    Raises:
        UsageError: the weights are not known, or a number makes no sense.
        SpecError: none of the methods fits the model.
    """
    held = weights(model, weights_bits)
    rest = overhead(model) if overhead_bytes is None else overhead_bytes
    chosen = tuple(contexts) or tuple(sorted({*CONTEXTS, model.max_context or CONTEXTS[-1]}))
    rows, refused = [], {}
    for method in methods:
        try:
            rows.append(_method(model, method, machine, held, rest, chosen))
        except SpecError as error:
            refused[method.label] = str(error)
    if not rows:
        label, reason = next(iter(refused.items()))
        raise SpecError(f"{label} does not fit {model.name}: {reason}", "")
    rows.sort(key=lambda row: (-row.bits_per_value, row.label))
    return Plan(
        model=model,
        machine=machine,
        weights=held,
        overhead_bytes=rest,
        methods=tuple(rows),
        refused=refused,
        notes=notes(model, chosen),
    )


def _method(
    model: ModelShape, method: KVMethod, machine: Machine | None, held: Weights, rest: int, contexts: Sequence[int]
) -> MethodPlan:
    stored = [
        (count * layer.kv_heads, layer, method.cost("key", layer.key_dim), method.cost("value", layer.value_dim))
        for layer, count in model.groups.items()
        if layer.kv_heads
    ]
    keys = sum(n * layer.key_dim for n, layer, _, _ in stored)
    values = sum(n * layer.value_dim for n, layer, _, _ in stored)
    key_bits = sum(n * layer.key_dim * key.bits for n, layer, key, _ in stored)
    value_bits = sum(n * layer.value_dim * value.bits for n, layer, _, value in stored)
    limit = None
    unlimited = False
    if machine is not None:
        limit = largest_context(model, method, machine.usable - held.n_bytes - rest)
        unlimited = limit is None
    trained = model.max_context or UNLIMITED
    return MethodPlan(
        label=method.label,
        bits_per_value=(key_bits + value_bits) / max(1, keys + values),
        key_bits=key_bits / max(1, keys),
        value_bits=value_bits / max(1, values),
        bytes_per_token=per_token(model, method, windows_full=True),
        bytes_per_token_first=per_token(model, method, windows_full=False),
        costs=tuple(_cost(model, method, machine, held, rest, context) for context in contexts),
        largest_context=limit,
        unlimited=unlimited,
        beyond_trained=limit is not None and limit > trained,
    )


def _cost(model: ModelShape, method: KVMethod, machine: Machine | None, held: Weights, rest: int, context: int) -> Cost:
    cache = kv_bytes(model, method, context)
    total = held.n_bytes + rest + cache
    fits = None if machine is None else total <= machine.usable
    rate = machine.bandwidth if machine is not None and fits else None
    return Cost(
        context=context,
        kv_bytes=cache,
        total_bytes=total,
        fits=fits,
        tokens_per_second=None if rate is None else rate / (held.active_bytes + cache),
        beyond_trained=context > (model.max_context or UNLIMITED),
    )
