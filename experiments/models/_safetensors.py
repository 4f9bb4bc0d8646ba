"""Writes safetensors files tensor by tensor, so that a conversion never holds a model, with bytes fixed for ever.

The format: 8 bytes length, a JSON header, then the data (huggingface/safetensors).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def write_float16(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Iterable[NDArray[np.float32]]]]
) -> Iterator[int]:
    """Write `tensors` (name, pieces along the first axis) as float16 and yield the bytes written so far.

    `shapes` gives the names in the order in which `tensors` brings them. The file is synced to disk.

    Raises:
        ValueError: a tensor has another size than announced, or values beyond float16.
        OSError: the disk is full or not writable.
    """
    import numpy as np

    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for name, pieces in tensors:
            before = done
            for piece in pieces:
                if not np.all(np.abs(piece) <= np.finfo(np.float16).max):
                    raise ValueError(f"{name} has values that float16 cannot hold")
                done += file.write(np.ascontiguousarray(piece, np.float16).tobytes())
                yield done
            if done - before != 2 * prod(shapes[name]):
                raise ValueError(f"{name} has another size than its shape {shapes[name]}")
        file.flush()
        os.fsync(file.fileno())


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
