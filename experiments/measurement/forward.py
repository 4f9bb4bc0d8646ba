"""Runs a model's own forward pass and looks inside: hidden states after each layer, logits only where they are scored.

The model's code stays as it is: for the time of one pass the `__call__` of its layer class and the product with the
vocabulary are intercepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.kernels import elementwise, layers
from swarm.kernels.errors import ModelError

if TYPE_CHECKING:
    import mlx.core as mx
    import mlx.nn as nn

Watch = Callable[[int, "mx.array"], None]


@dataclass(frozen=True)
class Entry:
    """Where a pass begins: `hidden` [windows, tokens, width] is what layer `layer` reads; layers before it are skipped.

    Layers that are not quantized and lie below the first quantized one compute what the 16-bit run computed.
    """

    layer: int
    hidden: mx.array


class ForwardPass:
    """The forward pass of one model.

    Raises:
        ModelError: no product with the vocabulary was found in the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: list[nn.Module] = list(model.layers)
        self.tuples = False  # whether layers were seen to hand on more than the hidden state
        self._index = {id(layer): number for number, layer in enumerate(self.layers)}
        self._head, self._call = _find_head(model)
        self.traced = layers.trace(model)
        self.blocks = layers.blocks(self.traced, len(self.layers))  # the block of each layer

    def logits(
        self,
        tokens: NDArray[np.integer],
        caches: Sequence[Any],
        *,
        scored: Sequence[int] | None = None,
        vocabulary: mx.array | None = None,
        entry: Entry | None = None,
        watch: Watch | None = None,
    ) -> NDArray[np.float32]:
        """One pass over a chunk of tokens.

        Args:
            tokens: token ids [windows, tokens]; the caches hold what came before.
            caches: one cache object per layer.
            scored: positions in the chunk whose logits are wanted; None means all.
            vocabulary: rows of the head [scored tokens, width] from `rows`; None means the whole vocabulary.
            entry: begin at a layer, with its input given.
            watch: called with the number of a block of layers and its output [windows, tokens, width].

        Returns:
            Logits [windows, positions, scored tokens].
        """
        import mlx.core as mx

        positions = None if scored is None else mx.array(np.asarray(scored, np.int32))
        with ExitStack() as stack:
            if entry is not None or watch is not None:
                stack.enter_context(self._layers_intercepted(entry, watch))
            out = self._pass(tokens, caches, positions, vocabulary)
        return np.array(out.astype(mx.float32), copy=False)

    def rows_of_logits(self, tokens: NDArray[np.integer], caches: Sequence[Any]) -> Iterator[mx.array]:
        """One pass over a chunk of tokens; yields each row's logits [tokens, vocabulary] as the model computed them.

        For many rows and a large vocabulary: never more than one row has to be held in float32.
        """
        yield from self._pass(tokens, caches)

    def _pass(
        self,
        tokens: NDArray[np.integer],
        caches: Sequence[Any],
        positions: mx.array | None = None,
        vocabulary: mx.array | None = None,
    ) -> mx.array:
        import mlx.core as mx

        with self._head_intercepted(positions, vocabulary) as reached:
            out: mx.array = self.model(mx.array(np.asarray(tokens, np.int32)), cache=list(caches))
            mx.eval(out)
        if not reached:
            raise ModelError("the product with the vocabulary was not reached.", "This model family is not supported.")
        return out

    @property
    def enterable(self) -> bool:
        """Whether a pass can begin in the middle: each layer is one block, which hands its hidden state on alone."""
        return not self.tuples and self.blocks == list(range(len(self.layers)))

    def rows(self, tokens: NDArray[np.integer]) -> mx.array:
        """The rows of the head that belong to some tokens [tokens, width], in the type that the model computes in."""
        import mlx.core as mx

        index = mx.array(np.asarray(tokens, np.int32))
        head = self._head
        rows: mx.array = head.weight[index]
        if "scales" in head:
            biases = head["biases"][index] if "biases" in head else None
            rows = mx.dequantize(rows, head.scales[index], biases, head.group_size, head.bits, mode=head.mode)
        mx.eval(rows)
        return rows

    @contextmanager
    def _head_intercepted(self, scored: mx.array | None, vocabulary: mx.array | None) -> Iterator[list[bool]]:
        kind, name, head = type(self._head), self._call, self._head
        original = getattr(kind, name)
        reached: list[bool] = []

        def scored_only(module: nn.Module, x: mx.array, *rest: Any, **named: Any) -> Any:
            if module is not head:
                return original(module, x, *rest, **named)
            reached.append(True)
            x = x if scored is None else x[:, scored]
            if vocabulary is None:
                return original(module, x, *rest, **named)
            return x.astype(vocabulary.dtype) @ vocabulary.T

        setattr(kind, name, scored_only)
        try:
            yield reached
        finally:
            setattr(kind, name, original)

    @contextmanager
    def _layers_intercepted(self, entry: Entry | None, watch: Watch | None) -> Iterator[None]:
        originals = {kind: kind.__call__ for kind in {type(layer) for layer in self.layers}}
        start = 0 if entry is None else entry.layer

        def intercepted(layer: nn.Module, x: mx.array, *rest: Any, **named: Any) -> Any:
            number = self._index.get(id(layer))
            if number is None:
                return originals[type(layer)](layer, x, *rest, **named)
            if number < start:
                out = x
            else:
                given = entry.hidden if entry is not None and number == start else x
                out = originals[type(layer)](layer, given, *rest, **named)
            if watch is not None and number >= start:
                watch(number, self._hidden(out))
            return out

        for kind in originals:
            kind.__call__ = intercepted
        try:
            yield
        finally:
            for kind, original in originals.items():
                kind.__call__ = original

    def _hidden(self, out: Any) -> mx.array:
        """The hidden state [windows, tokens, width] that a layer returns, the first where it returns several."""
        hidden = out[0] if isinstance(out, tuple) else out
        self.tuples |= hidden is not out or hidden.ndim > 3
        state: mx.array = hidden[0] if hidden.ndim > 3 else hidden
        return state


def _find_head(model: nn.Module) -> tuple[nn.Module, str]:
    """The module that multiplies with the vocabulary, and the name of the method that does.

    Where several have the size for it, an unevaluated pass over one token shows which does.
    """
    import mlx.nn as nn

    inside = {id(module) for layer in model.layers for module in layer.modules()}
    modules = [module for module in model.modules() if id(module) not in inside]
    embeddings = [module for module in modules if isinstance(module, nn.Embedding | nn.QuantizedEmbedding)]
    sizes = {module.weight.shape[0] for module in embeddings}
    linear = [m for m in modules if isinstance(m, nn.Linear | nn.QuantizedLinear) and m.weight.shape[0] in sizes]
    found = [(module, "as_linear") for module in embeddings] + [(module, "__call__") for module in linear]
    if not found:
        raise ModelError("no product with the vocabulary was found.", "This model family is not supported.")
    return found[0] if len(found) == 1 else _last_called(model, found)


def _last_called(model: nn.Module, found: list[tuple[nn.Module, str]]) -> tuple[nn.Module, str]:
    """The method that a pass calls last among some methods of modules."""
    import mlx.core as mx

    originals = {(type(module), name): getattr(type(module), name) for module, name in found}
    called: list[tuple[nn.Module, str]] = []

    def noting(kind: type, name: str) -> Callable[..., Any]:
        def call(module: nn.Module, *given: Any, **named: Any) -> Any:
            called.extend(one for one in found if one[0] is module and one[1] == name)
            return originals[kind, name](module, *given, **named)

        return call

    for kind, name in originals:
        setattr(kind, name, noting(kind, name))
    try:
        with elementwise.suspended():
            model(mx.zeros((1, 1), mx.int32))
    finally:
        for (kind, name), original in originals.items():
            setattr(kind, name, original)
    return called[-1] if called else found[-1]
