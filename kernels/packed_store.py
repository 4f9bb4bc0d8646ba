"""Packed arrays of one side of one layer as they are kept: they grow at the end and are dropped at the front."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from swarm.kernels import arrays

if TYPE_CHECKING:
    from swarm.kernels.arrays import Namespace, Packed

MEMORY_STEP_TOKENS = 256  # memory grows by so many tokens, as in mlx-lm's own cache


class RecentBlocks(Protocol):
    """Blocks that a back-end packed and holds itself until they move into a store."""

    @property
    def count(self) -> int:
        """Blocks."""

    @property
    def nbytes(self) -> int:
        """Bytes held, room for further blocks included."""

    def parts(self) -> Packed:
        """Their packed arrays [B, H, count, ...]."""


class PackedStore:
    """Named arrays [B, H, blocks, ...] that grow at the end and are dropped at the front.

    The last blocks may be `recent`, with the back-end; whatever reads the arrays moves them in first. `nbytes` counts
    what is really held, room for growth included.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.blocks = 0  # live blocks
        self._front = 0  # dropped blocks whose memory is not yet reused
        self._parts: Packed = {}
        self._shared = False  # with another store: these arrays are not written any more
        self.recent: RecentBlocks | None = None

    def extend(self, recent: RecentBlocks, blocks: int) -> None:
        """Count `blocks` more, of which `recent` holds the last."""
        self.recent = recent
        self.blocks += blocks

    def settle(self) -> None:
        """Move recent blocks into the arrays."""
        if self.recent is None:
            return
        packed = self.recent.parts()
        self.blocks -= self.recent.count
        self.recent = None
        self.append(arrays.namespace(next(iter(packed.values()))), packed)

    def append(self, xp: Namespace, packed: Packed) -> None:
        """Add packed arrays behind the last block.

        Where a few tokens make the arrays grow, their copies are computed at once: stores of many layers grow in the
        same step, and together they would need the memory of all twice. A longer prompt goes on without that wait.
        """
        self.settle()
        added = next(iter(packed.values())).shape[2]
        end = self._front + self.blocks
        grows = not self._parts or self._shared or end + added > self._capacity
        copied = grows and self.blocks > 0 and added <= self._step
        if grows:
            self._reallocate(xp, packed, self.blocks + added)
            end = self.blocks
        for name, part in packed.items():
            self._parts[name][:, :, end : end + added] = part
        self.blocks += added
        if copied:
            arrays.compute_now(xp, self._parts.values())

    def read(self, start: int, stop: int, heads: slice = slice(None)) -> Packed:
        """The arrays of live blocks [start, stop) of some heads: views in numpy."""
        self.settle()
        start, stop = self._front + start, self._front + stop
        return {name: part[:, heads, start:stop] for name, part in self._parts.items()}

    def arrays(self) -> tuple[Packed, int]:
        """The whole arrays as held, without recent blocks, and the index of the first live block: for fused kernels.

        The dictionary is another one once the arrays are others; blocks that come in are written into those of MLX.
        """
        return self._parts, self._front

    def drop(self, blocks: int) -> None:
        """Forget the first blocks."""
        if self.recent is not None and blocks > self.blocks - self.recent.count:
            self.settle()
        self._front += blocks
        self.blocks -= blocks

    def truncate(self, blocks: int) -> None:
        """Keep only the first blocks; the memory goes back where none is left."""
        self.settle()
        self.blocks = min(self.blocks, blocks)
        if not self.blocks:
            self._front, self._parts = 0, {}

    def shared(self, blocks: int) -> PackedStore:
        """A store of the first blocks on the same arrays; whichever of the two grows first takes arrays of its own."""
        self.settle()
        other = PackedStore(self.block_tokens)
        other.blocks, other._front, other._parts = self.blocks, self._front, dict(self._parts)
        other.truncate(blocks)
        self._shared = other._shared = True
        return other

    def restore(self, xp: Namespace, packed: Packed) -> None:
        """Replace everything by these arrays."""
        self.blocks = self._front = 0
        self._parts, self.recent = {}, None
        if packed:
            self.append(xp, packed)

    @property
    def nbytes(self) -> int:
        """Bytes held, room for growth included."""
        return self._array_nbytes + (0 if self.recent is None else self.recent.nbytes)

    @property
    def live_nbytes(self) -> int:
        """Bytes of the live blocks alone."""
        return self._array_nbytes // self._capacity * self.blocks if self._parts else 0

    @property
    def _array_nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts.values())

    @property
    def _step(self) -> int:
        """Blocks by which memory grows."""
        return max(1, MEMORY_STEP_TOKENS // self.block_tokens)

    @property
    def _capacity(self) -> int:
        return int(next(iter(self._parts.values())).shape[2])

    def _reallocate(self, xp: Namespace, packed: Packed, blocks: int) -> None:
        capacity = -(-blocks // self._step) * self._step
        live = self.read(0, self.blocks)
        grown: Packed = {}
        for name, part in packed.items():
            grown[name] = xp.zeros((*part.shape[:2], capacity, *part.shape[3:]), dtype=part.dtype)
            if live:
                grown[name][:, :, : self.blocks] = live[name]
        self._parts = grown
        self._front = 0
        self._shared = False
