"""States of caches that are not packed (recurrent, convolution, keys of indexers), as captures keep them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from swarm.experiments.artifacts import Capture, CaptureWriter

State = list[tuple[str, Any]]
"""One cache: paths within its `state`, with numpy arrays (bits of bfloat16 as uint16), numbers or None."""


def states_of(caches: Sequence[Any]) -> list[State]:
    """The states of mlx-lm's caches, copied."""
    from mlx.utils import tree_flatten

    return [[(path, _to_numpy(leaf)) for path, leaf in tree_flatten(cache.state)] for cache in caches]


def restore_states(caches: Sequence[Any], states: Sequence[State]) -> None:
    """Put states into fresh caches of the same model."""
    from mlx.utils import tree_unflatten

    for cache, state in zip(caches, states, strict=True):
        cache.state = tree_unflatten([(path, _to_mlx(leaf)) for path, leaf in state])


def save_states(writer: CaptureWriter, states: Sequence[State]) -> None:
    """Write states down; a model whose caches are all packed leaves nothing."""
    if not states:
        return
    facts: list[list[tuple[str, Any]]] = []
    for at, state in enumerate(states):
        facts.append([])
        for path, leaf in state:
            if isinstance(leaf, np.ndarray):
                writer.save(f"state.{at}.{path}", leaf)
                facts[-1].append((path, "array"))
            else:
                facts[-1].append((path, leaf))
    writer.facts["states"] = facts


def read_states(capture: Capture) -> list[State]:
    """The states that `save_states` wrote."""
    return [
        [(path, np.array(capture[f"state.{at}.{path}"]) if leaf == "array" else leaf) for path, leaf in state]
        for at, state in enumerate(capture.facts.get("states", ()))
    ]


def _to_numpy(leaf: Any) -> Any:
    import mlx.core as mx

    if not isinstance(leaf, mx.array):
        return leaf
    found: NDArray[Any] = np.array(leaf.view(mx.uint16) if leaf.dtype == mx.bfloat16 else leaf)
    return found


def _to_mlx(leaf: Any) -> Any:
    import mlx.core as mx

    if not isinstance(leaf, np.ndarray):
        return leaf
    held = mx.array(leaf)
    return held.view(mx.bfloat16) if held.dtype == mx.uint16 else held
