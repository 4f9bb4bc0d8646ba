"""Compiles kernel text for the host emulation with g++, once per user and text."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from swarm.kernels.errors import BackendError

if TYPE_CHECKING:
    from collections.abc import Sequence

Layout = Literal["cuda", "metal"]

HEADERS = tuple(
    Path(__file__).parent / f"{name}.h" for name in ("host_machine", "host_memory", "prelude_host", "host_simd")
)

# Branches on template constants leave unused names and dead shifts behind; the fibers jump.
_TOLERATED = (
    "unused-parameter",
    "unused-variable",
    "unused-but-set-variable",
    "unused-function",
    "maybe-uninitialized",
    "clobbered",
    "shift-count-overflow",
    "cast-function-type",
)
# -ffp-contract=off: what is not written as fma must not become one, so that both GPUs' arithmetic can be compared.
FLAGS = (
    "-std=c++14",
    "-fPIC",
    "-pedantic-errors",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wdouble-promotion",
    "-ffp-contract=off",
    *(f"-Wno-{name}" for name in _TOLERATED),
)


def prelude(layout: Layout) -> str:
    """The text before every translation unit: the emulation, in the lane order of one GPU family."""
    define = "#define KV_LIKE_METAL\n" if layout == "metal" else ""
    return define + "\n".join((Path(__file__).parent / name).read_text() for name in HEADERS)


def shared_object(text: str, layout: Layout = "cuda", level: int = 0) -> Path:
    """The shared object of a translation unit, compiled once per user.

    Raises:
        BackendError: no g++, or the text does not compile.
    """
    flags = (*FLAGS, f"-O{level}")
    before = prelude(layout)
    target = _folder() / f"{_digest(before, text, *flags)}.so"
    if not target.exists():
        header = _header(before, flags)
        with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
            source, built = Path(scratch) / "kernel.cpp", Path(scratch) / "kernel.so"
            source.write_text(text)
            run(*flags, "-shared", "-include", str(header), str(source), "-o", str(built))
            built.replace(target)
    return target


def _header(text: str, flags: Sequence[str]) -> Path:
    """A prelude as a header, with its precompiled form beside it: most of what a small kernel costs to compile."""
    folder = _folder() / f"prelude-{_digest(text, *flags)}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            made = Path(scratch) / "made"
            made.mkdir()
            (made / "prelude.h").write_text(text)
            run(*flags, "-x", "c++-header", str(made / "prelude.h"), "-o", str(made / "prelude.h.gch"))
            with suppress(OSError):  # another process was faster
                made.rename(folder)
    return folder / "prelude.h"


def run(*arguments: str) -> None:
    """Run g++.

    Raises:
        BackendError: there is none, or it finds something wrong.
    """
    path = shutil.which("g++")
    if path is None:
        raise BackendError("The host emulation of kernels needs g++.", "Install it: `apt install g++`.")
    done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BackendError(f"The kernel text does not compile:\n{done.stderr[:4000]}", "Mend the kernel text.")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:24]


def _folder() -> Path:
    import platformdirs

    root = os.environ.get("SWARM_CACHE") or platformdirs.user_cache_dir("kv-swarm")
    folder = Path(root) / "host-kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
