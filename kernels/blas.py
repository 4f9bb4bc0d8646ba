"""Which BLAS multiplies matrices on the CPU, and how to get a fast one.

MLX's Linux wheel links the reference BLAS, tens of times slower than OpenBLAS. Symbols of a library that is loaded
globally before `mlx.core` win, so an OpenBLAS from another wheel or from the system takes over. Where `mlx.core` came
first, its calls are bound again to OpenBLAS; where that cannot be, one warning says so. Without an OpenBLAS everything
works, slowly. On macOS MLX uses Accelerate and there is nothing to do.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
import os
import platform
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

LATE = "mlx.core was imported before OpenBLAS was loaded: call swarm.kernels.blas.use_openblas() before importing mlx."
INSTALL = "Install the package cmeel-openblas, or the system's OpenBLAS (Debian: libopenblas0-pthread)."
# No reference BLAS comes near this on any processor; every optimized one passes it.
FAST_GFLOPS = 15.0
"""Speed of one thread from which a BLAS counts as fast."""
SIZE = 320
"""Rows and columns of the matrices that are multiplied to measure it."""


@dataclass(frozen=True)
class BlasStatus:
    """What multiplies matrices in this process.

    `gflops` is measured with MLX on one float32 product (None: not measured). `in_force` says whether the fast
    library answers MLX's calls; if not, `remedy` says what to do.
    """

    library: str
    path: str
    threads: int | None
    in_force: bool
    remedy: str = ""
    gflops: float | None = None


@dataclass(frozen=True)
class _Loaded:
    handle: ctypes.CDLL
    path: str
    in_force: bool


@cache
def _openblas() -> tuple[_Loaded | None, tuple[str, ...]]:
    """The OpenBLAS loaded into this process (on Linux, on first call), or why there is none."""
    failures = []
    if sys.platform == "linux":
        late = "mlx.core" in sys.modules
        for path in candidates():
            try:
                library = _open(path)
            except OSError as error:
                failures.append(f"{path}: {error}")
                continue
            in_force = not late or rebind(library)
            if not in_force and _mlx_gflops() < FAST_GFLOPS:
                warnings.warn(f"Matrix products take tens of times longer than they need. {LATE}", RuntimeWarning, 3)
            return _Loaded(library, path, in_force), ()
    return None, tuple(failures)


def use_openblas(threads: int | None = None) -> BlasStatus:
    """Put an OpenBLAS in force for MLX, once per process, and set its number of threads.

    Best before the first import of `mlx.core`; later, MLX's calls are bound again where that can be (see `rebind`).
    Further calls only set the threads. Never fails: what is missing is in the status, and a warning says once when
    products stay slow because `mlx.core` came first.
    """
    _openblas()
    if threads is not None:
        set_threads(threads)
    return status()


def set_threads(threads: int) -> None:
    """Threads of every OpenBLAS in this process: the one that MLX calls, and numpy's own."""
    import numpy  # noqa: F401  (its BLAS must be there to be told)

    for library, suffix in _openblas_libraries():
        setter = getattr(library, f"{suffix[0]}openblas_set_num_threads{suffix[1]}", None)
        if setter is not None:
            setter.argtypes, setter.restype = [ctypes.c_int], None
            setter(threads)


def status(measure: bool = False) -> BlasStatus:
    """Which BLAS is in force; with `measure` the product of two matrices is timed (some milliseconds)."""
    gflops = _mlx_gflops() if measure else None
    if sys.platform == "darwin":
        return BlasStatus("Accelerate", "", None, True, gflops=gflops)
    loaded, failures = _openblas()
    if loaded is None and gflops is not None and gflops > FAST_GFLOPS:
        return BlasStatus("the BLAS that MLX was built with", "", None, True, gflops=gflops)
    if loaded is None:
        why = f" ({failures[0]})" if failures else ""
        return BlasStatus(
            "reference BLAS", "", 1, False, f"Matrix products are slow: no OpenBLAS was loaded{why}. {INSTALL}", gflops
        )
    handle = loaded.handle
    handle.openblas_get_config.restype = ctypes.c_char_p
    handle.openblas_get_num_threads.restype = ctypes.c_int
    name = " ".join(handle.openblas_get_config().decode().split()[:2])
    core = _core_name(handle)
    in_force = loaded.in_force
    if gflops is not None:
        # The same product through OpenBLAS itself: MLX is within a small factor of it, or does not call it.
        in_force = gflops > 0.2 * _direct_gflops(handle)
    remedy = "" if in_force else LATE
    return BlasStatus(
        f"{name} {core}".strip(), loaded.path, handle.openblas_get_num_threads(), in_force, remedy, gflops
    )


def _core_name(handle: ctypes.CDLL) -> str:
    handle.openblas_get_corename.restype = ctypes.c_char_p
    return f"({handle.openblas_get_corename().decode()})"


def candidates() -> list[str]:
    """Paths of OpenBLAS libraries, best first: the wheel's, then the system's."""
    found = [Path(root) / "cmeel.prefix" / "lib" / "libopenblas.so" for root in _site_dirs()]
    paths = [str(path) for path in found if path.exists()]
    system = ctypes.util.find_library("openblas")
    return paths + ([system] if system else [])


def _site_dirs() -> list[str]:
    spec = importlib.util.find_spec("mlx")
    near = [str(Path(place).parent) for place in (spec.submodule_search_locations or [])] if spec else []
    return list(dict.fromkeys([*near, sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]]))


def _open(path: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        if "libgfortran" not in str(error):
            raise
        provide_gfortran()
        return ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


class _LinkMap(ctypes.Structure):
    """Where the dynamic loader put a library: the head of `struct link_map` in <link.h>."""

    _fields_ = (("base", ctypes.c_size_t), ("name", ctypes.c_char_p), ("dynamic", ctypes.c_size_t))


def rebind(openblas: ctypes.CDLL) -> bool:
    """Send MLX's calls to OpenBLAS although it was imported first; whether float32 products go there now.

    A library calls others through a table of addresses, which the dynamic loader fills in. Here the addresses of BLAS
    functions (`cblas_*`) are filled in once more, as the loader would have done with OpenBLAS in time. Nothing is done
    where the table is read-only, or where the loader is not glibc's.
    """
    if platform.libc_ver()[0] != "glibc" or ctypes.sizeof(ctypes.c_void_p) != 8:
        return False
    maps = Path("/proc/self/maps").read_text()
    found = re.findall(r"^([0-9a-f]+)-([0-9a-f]+) rw.. ", maps, re.MULTILINE)
    writable = [(int(start, 16), int(end, 16)) for start, end in found]
    bound = set()
    for path in dict.fromkeys(re.findall(r"(/\S*/mlx/\S*\.so\S*)$", maps, re.MULTILINE)):
        for name, slot in _call_slots(ctypes.CDLL(path)):
            if name.startswith("cblas_") and hasattr(openblas, name):
                if not any(start <= slot < end for start, end in writable):
                    return False
                address = ctypes.cast(getattr(openblas, name), ctypes.c_void_p)
                ctypes.c_void_p.from_address(slot).value = address.value
                bound.add(name)
    return "cblas_sgemm" in bound


def _call_slots(library: ctypes.CDLL) -> Iterator[tuple[str, int]]:
    """Names of the functions that a library calls in others, and the places that hold their addresses (64-bit ELF)."""
    link_map = ctypes.POINTER(_LinkMap)()
    rtld_di_linkmap = 2
    if ctypes.CDLL(None).dlinfo(ctypes.c_void_p(library._handle), rtld_di_linkmap, ctypes.byref(link_map)):
        return
    size_of_calls, names, symbols, calls = 2, 5, 6, 23  # DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_JMPREL
    entries: dict[int, int] = {}
    at = link_map.contents.dynamic
    while tag := ctypes.c_size_t.from_address(at).value:
        entries[tag] = ctypes.c_size_t.from_address(at + 8).value
        at += 16
    if not {size_of_calls, names, symbols, calls} <= entries.keys():
        return
    for call in range(entries[calls], entries[calls] + entries[size_of_calls], 24):
        offset, info = (ctypes.c_size_t.from_address(call + 8 * field).value for field in range(2))
        name = ctypes.c_uint32.from_address(entries[symbols] + 24 * (info >> 32)).value
        yield ctypes.string_at(entries[names] + name).decode(), link_map.contents.base + offset


def provide_gfortran() -> None:
    """Load a wheel's private libgfortran under its public name, for systems that have none.

    Wheels carry the library under a mangled SONAME (`libgfortran-<hash>.so.5`), and the loader matches by SONAME.
    A copy in memory with the name put right satisfies OpenBLAS; nothing is written to disk.

    Raises:
        OSError: no wheel carries one, or it cannot be loaded.
    """
    for root in _site_dirs():
        for wheel in ("mlx_cpu.libs", "scipy.libs", "numpy.libs"):
            for source in sorted((Path(root) / wheel).glob("libgfortran-*.so.5*")):
                image = source.read_bytes()
                public = b"libgfortran.so.5\0"
                mangled = source.name.encode() + b"\0"
                if image.count(mangled) != 1:
                    continue
                for helper in source.parent.glob("libquadmath-*.so*"):
                    ctypes.CDLL(str(helper))
                descriptor = os.memfd_create("libgfortran.so.5")
                try:
                    with os.fdopen(os.dup(descriptor), "wb") as memory:
                        memory.write(image.replace(mangled, public.ljust(len(mangled), b"\0")))
                    ctypes.CDLL(f"/proc/self/fd/{descriptor}")
                finally:
                    os.close(descriptor)
                return
    raise OSError("libgfortran.so.5 is missing")


def _openblas_libraries() -> list[tuple[ctypes.CDLL, tuple[str, str]]]:
    """OpenBLAS libraries mapped into this process, with the prefix and suffix of their symbols."""
    if sys.platform != "linux":
        return []
    paths = re.findall(r"(/\S*openblas\S*\.so\S*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)
    found = []
    for path in dict.fromkeys(paths):
        name = Path(path).name
        prefix = "scipy_" if "scipy_" in name else ""
        found.append((ctypes.CDLL(path), (prefix, "64_" if "openblas64_" in name else "")))
    return found


def _mlx_gflops() -> float:
    import time

    import mlx.core as mx

    with mx.stream(mx.cpu):
        a = mx.ones((SIZE, SIZE))
        b = mx.ones((SIZE, SIZE))
        mx.eval(a, b)
        best = float("inf")
        for _ in range(5):
            start = time.perf_counter()
            mx.eval(a @ b)
            best = min(best, time.perf_counter() - start)
    return 2e-9 * SIZE**3 / best


@cache
def _direct_gflops_of(path: str) -> float:
    import time

    import numpy as np

    handle = ctypes.CDLL(path)
    a = np.ones((SIZE, SIZE), np.float32)
    c = np.empty_like(a)
    pointer = a.ctypes.data_as(ctypes.c_void_p)
    n, one = ctypes.c_int(SIZE), ctypes.c_float(1.0)
    row_major, plain = ctypes.c_int(101), ctypes.c_int(111)
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        handle.cblas_sgemm(
            row_major, plain, plain, n, n, n, one, pointer, n, pointer, n,
            ctypes.c_float(0.0), c.ctypes.data_as(ctypes.c_void_p), n,
        )  # fmt: skip
        best = min(best, time.perf_counter() - start)
    return 2e-9 * SIZE**3 / best


def _direct_gflops(handle: ctypes.CDLL) -> float:
    return _direct_gflops_of(str(handle._name))
