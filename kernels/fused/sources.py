"""The kernel text: which source files make a kernel, for which back-end."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources
from itertools import product
from pathlib import Path

_ATTENTION = ("formats", "decoders", "block_decoders", "scaled", "attention")
_LAYOUTS = ("affine", "blocks", "norms", "minifloats")  # what a packed vector consists of
_DECODE = (*_ATTENTION, "lanes", "frame", "scoring", "publish", "matrix_query", "matrix", "scalar", "decode")
# What a decode reads, and where its result goes. With nothing in 16 bit there are fewer arguments and a body less to
# compile; in one part there is nothing to merge.
_DECODES = {
    "decode": ("decode_partials", "decode_packed", "decode_dense"),
    "decode_packed": ("decode_partials", "decode_packed"),
    "decode_whole": ("decode_whole", "decode_packed"),
}
# Ends of names: sequences that do not all begin with the first token; queries, or merged outputs, that the kernel maps
# itself; and scores that are capped, have something added, or meet sinks.
ALIGNED, FRAMED, SCORED = "_aligned", "_framed", "_scored"
_BEGINS = {"": "decode_even", ALIGNED: "decode_aligned"}
_QUERIES = {"": "decode_queries", FRAMED: "decode_framed"}
_SCORES = {"": "decode_plain", SCORED: "decode_scored"}
_VARIANTS = {
    f"{entry}{aligned}{framed}{scored}": (
        _BEGINS[aligned],
        "decode_begin",
        _SCORES[scored],
        _QUERIES[framed],
        *_DECODES[entry],
    )
    for entry, aligned, framed, scored in product(_DECODES, _BEGINS, _QUERIES, _SCORES)
}
BODIES = {
    **dict.fromkeys(_VARIANTS, _DECODE),
    "merge": (*_ATTENTION, "merge"),
    f"merge{FRAMED}": (*_ATTENTION, "frame", "merge"),
    **{f"encode_{layout}": ("formats", "encode") for layout in _LAYOUTS},
    "append": ("formats", "encode", "append"),
}
STATEMENTS = {
    **_VARIANTS,
    "merge": ("merge_begin", "merge"),
    f"merge{FRAMED}": ("merge_begin", "merge_framed"),
    **{f"encode_{layout}": ("encode_begin", f"encode_{layout}") for layout in _LAYOUTS},
    "append": ("append",),
}
# Rounds as written, so that codes are those of the reference.
EXACT = frozenset((*(f"encode_{layout}" for layout in _LAYOUTS), "append"))


@cache
def read(file: str) -> str:
    """The text of one source file."""
    return (resources.files(__package__) / "source" / file).read_text()


@cache
def body(entry: str) -> str:
    """The shared text that a kernel is made of, without prelude and entry: the same for every back-end."""
    return "\n".join(read(f"{name}.h") for name in BODIES[entry])


@cache
def header(entry: str, prelude: str) -> str:
    """What comes before the kernel function: the prelude of `cuda` or `metal`, then the shared text."""
    return "\n".join([read(f"prelude_{prelude}.h"), body(entry)])


@cache
def includes(entry: str, prelude: str) -> str:
    """`header` as lines that include its files, for a compiler that reads files: NVRTC does, Metal's does not.

    MLX hashes the whole text of a CUDA kernel in every launch, on the host: 60 KB take 10 to 30 us.
    """
    files = [resources.files(__package__) / "source" / f"{name}.h" for name in (f"prelude_{prelude}", *BODIES[entry])]
    if not all(isinstance(file, Path) for file in files):  # an archive, out of which no compiler reads
        return header(entry, prelude)
    return "\n".join(f'#include "{file}"' for file in files) + "\n"


@cache
def statements(entry: str) -> str:
    """The statements of the kernel function."""
    return "\n".join(read(f"{name}.entry") for name in STATEMENTS[entry])


@cache
def digest(entry: str, prelude: str) -> str:
    """Short hash of all text of a kernel; compiled kernels are cached by name, so it belongs into the name."""
    text = header(entry, prelude) + statements(entry)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
