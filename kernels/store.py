"""Growing packed storage of one side of one layer. Knows named arrays and blocks of tokens, nothing of methods."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from swarm.kernels.arrays import Array, Namespace, Packed

STEP_TOKENS = 256


class PackedStore:
    """Named arrays [B, H, blocks, ...] that grow at the end and are dropped at the front.

    Memory is taken in steps of 256 tokens, as mlx-lm's own cache does; `nbytes` counts what is really held.
    """

    def __init__(self, block_tokens: int) -> None:
        self.block_tokens = block_tokens
        self.blocks = 0  # live blocks
        self._front = 0  # dropped blocks whose memory is not yet reused
        self._parts: Packed = {}

    def append(self, xp: Namespace, packed: Packed) -> None:
        """Add packed arrays behind the last block."""
        added = next(iter(packed.values())).shape[2]
        end = self._front + self.blocks
        if not self._parts or end + added > self._capacity:
            self._reallocate(xp, packed, self.blocks + added)
            end = self.blocks
        for name, part in packed.items():
            self._parts[name][:, :, end : end + added] = part
        self.blocks += added

    def read(self, start: int, stop: int) -> Packed:
        """The arrays of live blocks [start, stop): views in numpy."""
        start, stop = self._front + start, self._front + stop
        return {name: part[:, :, start:stop] for name, part in self._parts.items()}

    def arrays(self) -> tuple[Packed, int]:
        """The whole arrays as held, and the index of the first live block: what a fused kernel reads."""
        return self._parts, self._front

    def drop(self, blocks: int) -> None:
        """Forget the first blocks."""
        self._front += blocks
        self.blocks -= blocks

    def truncate(self, blocks: int) -> None:
        """Keep only the first blocks."""
        self.blocks = min(self.blocks, blocks)

    def restore(self, xp: Namespace, packed: Packed) -> None:
        """Replace everything by these arrays."""
        self.blocks = self._front = 0
        self._parts = {}
        if packed:
            self.append(xp, packed)

    @property
    def nbytes(self) -> int:
        """Bytes held, room for growth included."""
        return sum(part.nbytes for part in self._parts.values())

    @property
    def live_nbytes(self) -> int:
        """Bytes of the live blocks alone."""
        return self.nbytes // self._capacity * self.blocks if self._parts else 0

    @property
    def _capacity(self) -> int:
        return int(next(iter(self._parts.values())).shape[2])

    def _reallocate(self, xp: Namespace, packed: Packed, blocks: int) -> None:
        step = max(1, STEP_TOKENS // self.block_tokens)
        capacity = -(-blocks // step) * step
        live = self.read(0, self.blocks)
        for name, part in packed.items():
            grown: Array = xp.zeros((*part.shape[:2], capacity, *part.shape[3:]), dtype=part.dtype)
            if live:
                grown[:, :, : self.blocks] = live[name]
            self._parts[name] = grown
        self._front = 0
