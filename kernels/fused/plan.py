"""How a decode attention is dealt to a device: which body, how many parts. Pure arithmetic, the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass

TILE = 16  # tokens that a simdgroup takes at a time
LEAST_TILES = 2  # of a simdgroup, below which a further part costs more than it brings
DENSE_TOKENS = 64  # 16-bit tokens of one part


@dataclass(frozen=True)
class Device:
    """What of a device decides the plan.

    `threadgroups` is how many threadgroups fill it once; query groups above `scalar_heads` heads go to the matrix
    body; `simdgroups` make a threadgroup; `ahead` tiles are prefetched.
    """

    threadgroups: int
    scalar_heads: int
    simdgroups: int
    ahead: int


@dataclass(frozen=True)
class Plan:
    """Parts that the packed tokens, the 16-bit tokens before and those behind them are cut into, and the body."""

    matrix: bool
    packed_parts: int
    head_parts: int
    tail_parts: int

    @property
    def parts(self) -> int:
        """Partials per query head."""
        return self.packed_parts + self.head_parts + self.tail_parts


def plan(device: Device, *, counts: tuple[int, int, int], rows: int, group: int, matrix_fits: bool = True) -> Plan:
    """The plan for `counts` = packed, head and tail tokens of each of `rows` = batch * KV heads.

    All rows together fill the device once: more parts would run in a second wave, fewer would leave cores idle. A
    short context is not cut finer than a few tiles per simdgroup.
    """
    packed, head, tail = counts
    tiles = -(-packed // TILE)
    wanted = max(1, device.threadgroups // rows)
    packed_parts = min(wanted, -(-tiles // (LEAST_TILES * device.simdgroups)))
    head_parts, tail_parts = (-(-count // DENSE_TOKENS) for count in (head, tail))
    limit = max(1, wanted)
    return Plan(
        matrix=matrix_fits and group > device.scalar_heads,
        packed_parts=packed_parts,
        head_parts=min(head_parts, limit),
        tail_parts=min(tail_parts, limit),
    )
