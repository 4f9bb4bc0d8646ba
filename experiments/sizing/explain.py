"""Says in a line each why a model's cache is as large as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from swarm.experiments.sizing.method import KVMethod, kv_bytes, per_token
from swarm.experiments.sizing.shape import ModelShape
from swarm.experiments.sizing.units import size, tokens

SIXTEEN = KVMethod(label="16 bit")


def notes(model: ModelShape, contexts: Sequence[int]) -> tuple[str, ...]:
    """Heads, windows, shared and recurrent layers, contexts beyond the trained window, and what was assumed."""
    return (heads(model), *_layers(model), *_beyond(model, contexts), *model.notes)


def heads(model: ModelShape) -> str:
    """How query heads share KV heads."""
    widest = model.widest
    if not widest.kv_heads:
        return "no layer caches keys and values"
    if model.latent:
        return (
            f"MLA: each token keeps one latent of {widest.key_dim} values and a key of {widest.value_dim} "
            f"per layer for all {model.query_heads} heads"
        )
    sides = f"{widest.key_dim}"
    if widest.key_dim != widest.value_dim:
        sides = f"{widest.key_dim} (keys) and {widest.value_dim} (values)"
    shared = model.query_heads // widest.kv_heads
    if shared <= 1:
        return f"MHA: each of the {model.query_heads} query heads has its own KV head of {sides} values"
    kind = "MQA" if widest.kv_heads == 1 else "GQA"
    own = "1 KV head" if widest.kv_heads == 1 else f"{widest.kv_heads} KV heads"
    return (
        f"{kind}: {model.query_heads} query heads share {own} of {sides} values, "
        f"so the cache is {shared} times smaller than with a KV head each"
    )


def _layers(model: ModelShape) -> Iterator[str]:
    total = len(model.layers)
    windows = [layer for layer in model.layers if layer.reach is not None and layer.kv_heads]
    if windows:
        widths = " or ".join(tokens(width) for width in sorted({layer.reach or 0 for layer in windows}))
        growing, first = (per_token(model, SIXTEEN, windows_full=full) for full in (True, False))
        reference = model.max_context or 128 << 10
        whole = model.model_copy(update={"layers": tuple(x.model_copy(update={"window": None}) for x in model.layers)})
        yield (
            f"windows: {len(windows)} of {total} layers see {widths} tokens only, so a token costs {size(first)} "
            f"at 16 bit until they are full and {size(growing)} after; an engine that ignores the windows would hold "
            f"{size(kv_bytes(whole, SIXTEEN, reference))} instead of {size(kv_bytes(model, SIXTEEN, reference))} at "
            f"{tokens(reference)}"
        )
    recurrent = [layer for layer in model.layers if layer.state_bytes]
    if recurrent:
        state = sum(layer.state_bytes for layer in recurrent)
        yield f"recurrent: {len(recurrent)} of {total} layers keep {size(state)} in all, however long the context"
    if model.shared_layers:
        yield f"shared: {model.shared_layers} of {total} layers reuse the cache of an earlier layer"


def _beyond(model: ModelShape, contexts: Sequence[int]) -> Iterator[str]:
    beyond = [context for context in contexts if model.max_context is not None and context > model.max_context]
    if beyond and model.max_context is not None:
        told = ", ".join(tokens(context) for context in sorted(beyond))
        yield f"beyond the trained window of {tokens(model.max_context)}: {told}; expect quality to fall there"
