"""Reads GGUF files: metadata and tensors, dequantized a few rows at a time.

`gguf.GGUFReader` builds Python objects around every string (15 s and 0.7 GB for a vocabulary of 262,144), so the
container is parsed here; the block formats are those of the `gguf` package.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from swarm.experiments.models.base import WeightsError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
CHUNK_VALUES = 4 << 20


@dataclass(frozen=True)
class TensorEntry:
    """Where one tensor lies: `shape` in row-major order, `kind` the ggml type number, `offset` in bytes."""

    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int


class GGUFFile:
    """An open GGUF file (version 2 or 3, little endian).

    Raises:
        WeightsError: not GGUF, another version, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else None
        self._at = 0
        self.metadata: dict[str, Any] = {}
        self.tensors: dict[str, TensorEntry] = {}
        try:
            self._read_header()
        except (struct.error, UnicodeDecodeError, KeyError, ValueError, OverflowError) as error:
            raise WeightsError(
                f"{path} is damaged: {error}.", "Get it again (of a bundled model, its package)."
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._map is not None:
            self._map.close()

    def rows(self, name: str) -> Iterator[NDArray[np.float32]]:
        """The tensor as float32, a few million values at a time along its first axis."""
        import gguf
        import numpy as np

        entry = self.tensors[name]
        kind = gguf.GGMLQuantizationType(entry.kind)
        n_rows, width = prod(entry.shape[:-1]), entry.shape[-1]
        row_bytes = self._row_bytes(entry)
        step = max(1, CHUNK_VALUES // width)
        for start in range(0, n_rows, step):
            count = min(step, n_rows - start)
            data = np.frombuffer(self._map or b"", np.uint8, count * row_bytes, entry.offset + start * row_bytes)
            yield np.asarray(gguf.dequantize(data.reshape(count, row_bytes), kind), np.float32)

    def array(self, name: str) -> NDArray[np.float32]:
        """The whole tensor as float32 in its shape."""
        import numpy as np

        return np.concatenate(list(self.rows(name))).reshape(self.tensors[name].shape)

    def _row_bytes(self, entry: TensorEntry) -> int:
        import gguf

        block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(entry.kind)]
        if entry.shape[-1] % block:
            raise ValueError(f"tensor {entry.name} has rows of {entry.shape[-1]} values in blocks of {block}")
        return int(entry.shape[-1] // block * size)

    def _read_header(self) -> None:
        if self._map is None or self._map[:4] != b"GGUF":
            raise ValueError("it is not a GGUF file")
        self._at = 4
        version = self._scalar(4)
        if version not in (2, 3):
            raise ValueError(f"GGUF version {version} is not supported")
        n_tensors, n_pairs = self._scalar(10), self._scalar(10)
        for _ in range(n_pairs):
            key = self._string()
            self.metadata[key] = self._value(self._scalar(4))
        entries = [self._tensor() for _ in range(n_tensors)]
        alignment = int(self.metadata.get("general.alignment", 32))
        base = (self._at + alignment - 1) // alignment * alignment
        for entry in entries:
            placed = TensorEntry(entry.name, entry.shape, entry.kind, base + entry.offset)
            if placed.offset + prod(entry.shape[:-1]) * self._row_bytes(placed) > len(self._map):
                raise ValueError(f"it ends inside tensor {entry.name}")
            self.tensors[entry.name] = placed

    def _tensor(self) -> TensorEntry:
        name = self._string()
        shape = tuple(self._scalar(10) for _ in range(self._scalar(4)))
        return TensorEntry(name, shape[::-1], self._scalar(4), self._scalar(10))

    def _scalar(self, kind: int) -> Any:
        code = "<" + SCALARS[kind]
        (value,) = struct.unpack_from(code, self._map or b"", self._at)
        self._at += struct.calcsize(code)
        return value

    def _string(self) -> str:
        length = self._scalar(10)
        start, self._at = self._at, self._at + length
        if self._map is None or self._at > len(self._map):
            raise ValueError("it ends inside its header")
        return self._map[start : self._at].decode("utf-8")

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(kind)
        kind, length = self._scalar(4), self._scalar(10)
        if kind in (STRING, ARRAY):
            return [self._value(kind) for _ in range(length)]
        code = f"<{length}{SCALARS[kind]}"
        values = list(struct.unpack_from(code, self._map or b"", self._at))
        self._at += struct.calcsize(code)
        return values
