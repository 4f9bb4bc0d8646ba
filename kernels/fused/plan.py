"""How a decode attention is dealt to a device: which body, how many parts. Pure arithmetic, the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

TILE = 16  # tokens that a simdgroup takes at a time
DENSE_TOKENS = 64  # 16-bit tokens of one part

# The price of a part in units of one step (all simdgroups of a full device taking one tile each): what a threadgroup
# needs besides its tiles, what a step takes of a device that is filled in part, and what a partial costs the merge.
# Fitted to an H100.
_FIXED = 3.0
_LEAST_STEP = 0.5
_STEP, _STEP_PER_FILL = 0.14, 0.86
_MERGE = 0.02


@dataclass(frozen=True)
class Device:
    """What of a device decides the plan.

    `threadgroups` of `simdgroups` each fill it once; query groups above `scalar_heads` heads go to the matrix body;
    `ahead` tiles are prefetched. `launch` is what a second launch costs, in steps of one tile by every simdgroup.
    """

    threadgroups: int
    scalar_heads: int
    simdgroups: int
    ahead: int
    launch: float = 0.0


@dataclass(frozen=True)
class Plan:
    """Parts that the packed tokens, the 16-bit tokens before and those behind them are cut into, and the body.

    `terms`: float16 numbers whose sum is a query or a weight in the matrix body, or 0 for the scalar body.
    """

    terms: int
    packed_parts: int
    head_parts: int
    tail_parts: int

    @property
    def parts(self) -> int:
        """Partials per query head."""
        return self.packed_parts + self.head_parts + self.tail_parts


def plan(device: Device, *, counts: tuple[int, int, int], rows: int, group: int, terms: int = 1) -> Plan:
    """The plan for `counts` = packed, head and tail tokens of each of `rows` = batch * KV heads.

    16-bit tokens get a part per few tokens; packed tokens as many parts as finish first. `terms` are those that the
    matrix body would need for packed tokens, 0 where it cannot be.
    """
    packed, head, tail = counts
    most = max(1, device.threadgroups // rows)
    head_parts, tail_parts = (min(-(-count // DENSE_TOKENS), most) for count in (head, tail))
    packed_parts = _packed_parts(device, packed, rows, head_parts + tail_parts)
    return Plan(terms if packed_parts and group > device.scalar_heads else 0, packed_parts, head_parts, tail_parts)


@lru_cache(maxsize=4096)
def _packed_parts(device: Device, tokens: int, rows: int, others: int) -> int:
    """The number of parts of each row's packed tokens that a model of the device finds fastest; 0 for no tokens.

    `others` are the parts of 16-bit tokens: without them a single part needs no merge.
    """
    if not tokens:
        return 0
    tiles = -(-tokens // TILE)
    finest = -(-tiles // device.simdgroups)
    fills = max(1, device.threadgroups // rows)
    candidates = {min(finest, wave * fills + extra) for wave in range(1, 4) for extra in (0, 1)}
    candidates |= {min(finest, parts) for parts in (*range(1, 9), finest)} if rows * 8 > device.threadgroups else {1}

    def price(parts: int) -> float:
        return _price(device, tiles, rows, parts) + device.launch * (parts + others > 1)

    return min(sorted(candidates), key=price)


def _price(device: Device, tiles: int, rows: int, parts: int) -> float:
    steps = -(-tiles // (parts * device.simdgroups))
    full, rest = divmod(rows * parts, device.threadgroups)
    waves = full * (_FIXED + steps)
    if rest:
        waves += _FIXED + steps * max(_LEAST_STEP, _STEP + _STEP_PER_FILL * rest / device.threadgroups)
    return waves + _MERGE * parts
