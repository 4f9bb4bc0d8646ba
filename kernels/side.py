"""Keys or values of one layer as they are held: 16-bit sinks, packed codes, 16-bit tail.

A token is encoded when it leaves the residual window, and a block of tokens when its last token does: so what is
stored after n tokens does not depend on how they were cut into calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from swarm.kernels import arrays
from swarm.kernels.packed_store import PackedStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from swarm.kernels.arrays import Array, Namespace, Packed
    from swarm.kernels.codec import Codec
    from swarm.kernels.packed_store import RecentBlocks


class KnownPart(Protocol):
    """A part of keys that is known from the position alone and taken out before encoding (the rotated key bias).

    Its score with a query is <features(q), table[position]>.
    """

    def keys(self, xp: Namespace, start: int, stop: int) -> Array:
        """The part at positions [start, stop), float32 [H, T, D]."""

    def features(self, q: Array) -> Array:
        """Queries float32 [B, H, L, D] to features [B, H, L, F]."""

    def table(self, xp: Namespace, start: int, stop: int) -> Array:
        """Float32 [T, F] of positions [start, stop)."""


class CacheSide:
    """Segments in order of position: sinks [0, s), packed [.., encoded), tail [encoded, offset).

    `sinks` and `residual` are in tokens; for method `none` they mean nothing and are taken as 0.
    """

    def __init__(self, codec: Codec, sinks: int, residual: int, part: KnownPart | None = None) -> None:
        plain = codec.spec.method == "none"
        self.codec = codec
        self.sinks = 0 if plain else sinks
        self.residual = 0 if plain else residual
        self.part = part
        self.offset = 0
        self.encoded = self.sinks  # position behind the last packed token
        self.store = PackedStore(codec.block_tokens)
        self.sink: Array | None = None
        self.tail: Array | None = None
        self._heads = 0  # vectors per token: batch times KV heads
        self._peak: Array | None = None  # largest magnitude of the last call, on an accelerator

    @property
    def packed_first(self) -> int:
        """Position of the first packed token that is still held."""
        return self.encoded - self.store.blocks * self.store.block_tokens

    def encoded_after(self, tokens: int) -> int:
        """Position behind the last packed token once `tokens` tokens came in one by one."""
        ready = max(0, tokens - self.residual - self.sinks)
        return self.sinks + ready - ready % self.store.block_tokens

    def append(self, xp: Namespace, x: Array) -> SideView:
        """Take in 16-bit vectors [B, H, T, D]; returns what attention of these T tokens reads.

        Raises:
            NonFiniteError: NaN, Inf, or a magnitude beyond what the 16-bit type or the format can hold. An accelerator
                is not waited for: there the next call says so, and single tokens are not looked at.
        """
        if arrays.is_host(xp):
            self.codec.check_range(xp, x)
        else:
            if self._peak is not None and not self.codec.surely_holds(xp, float(self._peak.item()), self._peak):
                self.codec.check_range(xp, x)
            self._peak = arrays.peak_later(xp, x) if x.shape[2] > 1 else None
        self._heads = x.shape[0] * x.shape[1]
        before, start = self.encoded, self.offset
        self.offset += x.shape[2]
        if start < self.sinks:
            head = x[:, :, : self.sinks - start]
            self.sink = _own(xp, _join(xp, self.sink, head))
            x = x[:, :, self.sinks - start :]
        recent = _join(xp, self.tail, x)
        target = max(before, self.encoded_after(self.offset))
        leaving, held = target - before, recent.shape[2]
        if leaving:
            packed = self._pack(xp, recent if leaving == held else recent[:, :, :leaving], before)
            self.store.append(xp, packed)
            self.encoded = target
        self.tail = None if leaving == held else _own(xp, recent[:, :, leaving:])
        return SideView(self, recent, before, start)

    @property
    def is_even(self) -> bool:
        """Whether sinks and tail are full, so that every further token packs one, the oldest of the tail."""
        plain = self.store.block_tokens == 1 and self.part is None and self._peak is None
        return plain and self.store.blocks > 0 and self.offset - self.encoded == self.residual

    def leaving(self, x: Array) -> Array:
        """The vectors [B, H, 1, D] that are packed when those of one more token come in, where the side is even."""
        return x if self.tail is None else self.tail[:, :, :1]

    def append_packed(self, xp: Namespace, recent: RecentBlocks, x: Array) -> SideView:
        """`append` of one token x [B, H, 1, D] whose `leaving` vectors are packed, as the last of `recent`."""
        start = self.offset
        self.store.extend(recent, 1)
        self.offset += 1
        self.encoded += 1
        if self.tail is not None:
            self.tail = _own(xp, x) if self.residual == 1 else xp.concatenate([self.tail[:, :, 1:], x], axis=2)
        return SideView(self, x if self.tail is None else self.tail, self.encoded, start)

    def _pack(self, xp: Namespace, x: Array, start: int) -> Packed:
        if self.part is not None:
            x = arrays.single(xp, x) - self.part.keys(xp, start, start + x.shape[2])
        return self.codec.pack(xp, x)

    def drop_before(self, position: int) -> None:
        """Forget tokens before a position that no query will see again, as far as whole blocks and sinks allow."""
        if self.sink is not None and position >= self.sinks:
            self.sink = None
        blocks = (min(position, self.encoded) - self.packed_first) // self.store.block_tokens
        if blocks > 0:
            self.store.drop(blocks)

    @property
    def trims_exactly(self) -> bool:
        """Whether any number of last tokens can be taken back: no packed token is in 16 bit in a shorter cache."""
        return self.encoded == self.sinks or (self.residual == 0 and self.store.block_tokens == 1)

    def can_trim(self, tokens: int) -> bool:
        """Whether 16 bit of all that a cache without the last tokens has in 16 bit are still held."""
        left = self.offset - tokens
        target = self.encoded_after(left)
        return target == self.encoded or left <= target

    def trim(self, xp: Namespace, tokens: int) -> None:
        """Forget the last tokens, where `can_trim` says so: what is left is what a cache without them holds."""
        self.offset -= tokens
        target = self.encoded_after(self.offset)
        if self.tail is not None:
            self.tail = _own(xp, self.tail[:, :, : max(0, self.offset - self.encoded)])
        self.store.truncate((target - self.packed_first) // self.store.block_tokens)
        self.encoded = target
        if self.sink is not None and self.offset < self.sinks:
            self.sink = _own(xp, self.sink[:, :, : self.offset])

    @property
    def tokens(self) -> int:
        """Tokens held."""
        sink, tail = (0 if half is None else half.shape[2] for half in (self.sink, self.tail))
        return int(sink + tail + self.store.blocks * self.store.block_tokens)

    @property
    def token_values(self) -> int:
        """Values per token, of all heads and sequences."""
        return self._heads * self.codec.head_dim

    @property
    def values(self) -> int:
        """Numbers that the held tokens stand for."""
        return self.tokens * self.token_values

    def state(self) -> dict[str, Any]:
        """Everything held, as MLX arrays and numbers."""
        halves = {"sink": self.sink, "tail": self.tail, **self.store.read(0, self.store.blocks)}
        numbers = {"head_dim": self.codec.head_dim, "offset": self.offset, "encoded": self.encoded}
        arrays_held = {name: arrays.to_mlx(part) for name, part in halves.items() if part is not None}
        return {**numbers, "arrays": arrays_held}

    def restore(self, xp: Namespace, state: Mapping[str, Any]) -> None:
        """Take over a state."""
        self.offset, self.encoded = int(state["offset"]), int(state["encoded"])
        parts = {name: arrays.held(xp, part) for name, part in state["arrays"].items()}
        for part in parts.values():
            self._heads = part.shape[0] * part.shape[1]
        self.sink, self.tail = parts.pop("sink", None), parts.pop("tail", None)
        self.store.restore(xp, parts)

    @property
    def nbytes(self) -> int:
        """Bytes held: segments with their room for growth, and the codec's tables."""
        return self.half_nbytes + self.store.nbytes + self.codec.constant_nbytes

    @property
    def live_nbytes(self) -> int:
        """Bytes of the stored tokens and the codec's tables."""
        return self.half_nbytes + self.store.live_nbytes + self.codec.constant_nbytes

    @property
    def half_nbytes(self) -> int:
        """Bytes of the 16-bit tokens."""
        return sum(half.nbytes for half in (self.sink, self.tail) if half is not None)


class SideView:
    """One side as the queries of one call see it: columns by position, 16 bit or packed or both.

    The call's own tokens may be in both forms: query i reads the form that column j had when token i came in.
    """

    def __init__(self, side: CacheSide, recent: Array, before: int, start: int) -> None:
        self.side = side
        self.codec = side.codec
        self.part = side.part
        self.offset = side.offset
        self.start = start  # position of the first query
        self.encoded = side.encoded
        self._recent = recent  # 16-bit tokens from `before` on
        self._recent_first = before
        always_packed = side.offset - start == 1 or (side.residual == 0 and side.store.block_tokens == 1)
        self.before = side.encoded if always_packed else before  # columns before it are read packed by every query
        self.all_packed = side.sinks == 0 and self.before == side.offset

    def spans(self, start: int, stop: int) -> list[tuple[int, int, str]]:
        """Runs of columns (start, stop, form) in a range; the form is `half`, `packed` or `both`."""
        sinks = self.side.sinks
        edges = ((0, sinks, "half"), (sinks, self.before, "packed"), (self.before, self.encoded, "both"))
        runs = [*edges, (max(self.encoded, sinks), self.offset, "half")]
        cut = [(max(low, start), min(high, stop), form) for low, high, form in runs]
        return [(low, high, form) for low, high, form in cut if low < high]

    def half(self, start: int, stop: int) -> Array:
        """16-bit columns [B, H, T, D]."""
        if stop <= self.side.sinks:
            return self.side.sink[:, :, start:stop]  # type: ignore[index]
        return self._recent[:, :, start - self._recent_first : stop - self._recent_first]

    def packed(self, xp: Namespace, start: int, stop: int) -> Array:
        """Decoded columns float32 [B, H, T, F] in the codec's frame; only this range is ever unpacked."""
        low, high, skip = self._blocks(start, stop)
        return self.codec.unpack(xp, self.side.store.read(low, high))[:, :, skip : skip + stop - start]

    def stored(self, start: int, stop: int) -> Packed:
        """The packed arrays [B, H, T, ...] of columns of a method that encodes every token by itself."""
        low, high, _ = self._blocks(start, stop)
        return self.side.store.read(low, high)

    def dense(self, start: int, stop: int, heads: slice, after: Array) -> Array:
        """Decoded columns of some heads on an accelerator, known part included, as `after` is typed.

        They are unpacked once `after` is there.
        """
        import mlx.core as mx

        low, high, skip = self._blocks(start, stop)
        packed = self.side.store.read(low, high, heads)
        packed = dict(zip(packed, mx.depends(list(packed.values()), [after]), strict=True))
        vectors = self.codec.quantizer.dense(packed, after.dtype)[:, :, skip : skip + stop - start]
        if self.part is None:
            return vectors
        known = self.codec.framed(self.part.keys(mx, start, stop)[None], heads)
        return (vectors + known).astype(after.dtype)

    def _blocks(self, start: int, stop: int) -> tuple[int, int, int]:
        """The stored blocks that hold a range of columns, and the tokens of the first that come before it."""
        block, first = self.side.store.block_tokens, self.side.packed_first
        low = (start - first) // block
        return low, -(-(stop - first) // block), start - first - low * block

    def packed_until(self, position: int) -> int:
        """The column from which on the query at `position` reads 16 bit."""
        return max(self._recent_first, self.side.encoded_after(position + 1))


def _join(xp: Namespace, left: Array | None, right: Array) -> Array:
    if left is None or left.shape[2] == 0:
        return right
    return xp.concatenate([left, right], axis=2) if right.shape[2] else left


def _own(xp: Namespace, x: Array) -> Array | None:
    """A copy with contiguous rows, as kernels read them, that does not keep the larger array alive."""
    if not x.shape[2]:
        return None
    return arrays.copy(xp, x)
