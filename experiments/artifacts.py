"""Files that can be made again, in the user cache: where they lie, and arrays that processes share through them.

A capture is a set of arrays that is made once, memory-mapped by every process, checked, and remade when damaged.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import DiskFullError, SwarmError

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

    Array = NDArray[Any]

CAPTURE_VERSION = 1
"""Raised when the 16-bit run, the scored windows or the token ids of the same weights and text change."""
META = "capture.json"
FORMAT = 1
MAX_CAPTURE_BYTES = 4 << 30
UNUSED_SECONDS = 6 * 3600.0
Key = Mapping[str, str | int | float]


class CacheError(SwarmError):
    """The user cache cannot be created or written."""


def cache_dir() -> Path:
    """The user cache directory: $SWARM_CACHE, or the platform's own place. It need not exist yet."""
    chosen = os.environ.get("SWARM_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return Path(platformdirs.user_cache_dir("kv-swarm", appauthor=False))


def writable(path: Path) -> Path:
    """Create the directory `path` if needed and return it.

    Raises:
        CacheError: it cannot be created or written, with the reason.
    """
    with cache_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "Permission denied")
    return path


@contextlib.contextmanager
def cache_errors(path: Path) -> Iterator[None]:
    """Turn a failed write under `path` into an error that says why and what to do.

    Raises:
        CacheError: for any OSError inside the block.
    """
    try:
        yield
    except OSError as error:
        raise CacheError(*_explain(error, path)) from error


def _explain(error: OSError, path: Path) -> tuple[str, str]:
    """Problem and remedy of a failed write under `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk of {path}.", "Free some space, or point SWARM_CACHE at another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write to {path}.", "Point SWARM_CACHE at a directory that you can write."
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{path} is not a directory.", "Point SWARM_CACHE at a directory."
    return f"cannot write to {path}: {error.strerror or error}.", "Point SWARM_CACHE at another directory."


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes on the file `path`; the system frees it when its holder dies."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Capture:
    """A finished capture: read-only memory-mapped arrays by name, and a few facts about them."""

    def __init__(self, path: Path, facts: Mapping[str, Any], names: Iterable[str]) -> None:
        self.path = path
        self.facts = dict(facts)
        self.names = tuple(names)

    def __getitem__(self, name: str) -> Array:
        """Map the array of that name: pages are read when touched, shared between processes, freed with the array."""
        import numpy as np

        os.utime(self.path / META)  # in use: not to be tidied away
        array: Array = np.load(self.path / f"{name}.npy", mmap_mode="r")
        return array


class CaptureWriter:
    """A capture that is being written: its arrays, and the facts that are kept beside them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.facts: dict[str, Any] = {}
        self.files: dict[str, dict[str, Any]] = {}
        self._open: dict[str, BlockFile] = {}

    def save(self, name: str, array: Array) -> None:
        """Write a whole array."""
        self.stream(name, array.shape, array.dtype, [array])

    def stream(self, name: str, shape: tuple[int, ...], dtype: DTypeLike, parts: Iterable[Array]) -> None:
        """Write an array of the given shape part by part, in C order, without ever holding all of it.

        Raises:
            ValueError: the parts do not add up to the shape.
        """
        import numpy as np

        file = self._path / f"{name}.npy"
        digest, values = hashlib.sha256(), 0
        with file.open("wb") as out:
            header = _header(shape, dtype)
            out.write(header)
            digest.update(header)
            for part in parts:
                data = np.ascontiguousarray(part, dtype)
                out.write(data.data)
                digest.update(data.data)
                values += data.size
        if values != int(np.prod(shape)):
            raise ValueError(f"{name}: {values} values written, shape {shape} promised")
        self.files[name] = {"bytes": file.stat().st_size, "sha256": digest.hexdigest()}

    def blocks(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> BlockFile:
        """An array that is written block by block in any order, without ever holding all of it."""
        self._open[name] = BlockFile(self._path / f"{name}.npy", shape, dtype)
        return self._open[name]

    def finish(self) -> None:
        """Read back what was written block by block, for its checksum.

        Raises:
            ValueError: the blocks of an array do not add up to its shape.
        """
        for name, array in self._open.items():
            self.files[name] = array.finish()


class BlockFile:
    """An array in a file, C order, of which blocks are written as they come."""

    def __init__(self, file: Path, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        import numpy as np

        self.shape, self.dtype = shape, np.dtype(dtype)
        self._file = file
        self._values = 0
        header = _header(shape, dtype)
        self._start = len(header)
        file.write_bytes(header)

    def put(self, first: tuple[int, ...], block: Array) -> None:
        """Write a block whose first value belongs at index `first`; it spans the whole last axis."""
        import numpy as np

        block = np.ascontiguousarray(block, self.dtype)
        with self._file.open("r+b") as out:
            for outer in np.ndindex(block.shape[:-2]):
                index = (*(a + b for a, b in zip(first, (*outer, 0, 0), strict=True)),)
                out.seek(self._start + int(np.ravel_multi_index(index, self.shape)) * self.dtype.itemsize)
                out.write(block[outer].data)
        self._values += block.size

    def finish(self) -> dict[str, Any]:
        """Size and checksum of the file."""
        import numpy as np

        if self._values != int(np.prod(self.shape)):
            raise ValueError(f"{self._file.name}: {self._values} values written, shape {self.shape} promised")
        with self._file.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": self._file.stat().st_size, "sha256": digest}


def _header(shape: tuple[int, ...], dtype: DTypeLike) -> bytes:
    """What an .npy file starts with."""
    import numpy as np

    header = io.BytesIO()
    description = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_2_0(header, {"descr": description, "fortran_order": False, "shape": shape})
    return header.getvalue()


class CaptureStore:
    """Captures in a directory, addressed by the content of their key.

    Processes agree through a lock per capture: the first makes it, the others wait and map it. A capture appears
    under its name complete or not at all.

    Args:
        root: the directory; created when the first capture is made.
        limit: bytes to keep; beyond, captures that were not used for some hours go, the longest unused first.
    """

    def __init__(self, root: Path, limit: int = MAX_CAPTURE_BYTES) -> None:
        self.root = root
        self.limit = limit
        self._checked: dict[str, Capture] = {}

    def path(self, kind: str, key: Key) -> Path:
        """Where the capture of a kind and key lies, made or not."""
        text = json.dumps({"format": FORMAT, **key}, sort_keys=True)
        return self.root / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:20]}"

    def get(self, kind: str, key: Key, make: Callable[[CaptureWriter], None]) -> Capture:
        """The capture of a kind and key; `make` writes it when it is missing, truncated or altered.

        Raises:
            DiskFullError: there is no space for it.
            CacheError: the directory cannot be written.
        """
        path = self.path(kind, key)
        known = self._checked.get(path.name)
        if known is not None:
            return known
        found = _open(path, key)
        if found is None:
            try:
                found = self._make(path, key, make)
            except OSError as error:
                raise _failure(error, self.root) from error
        self._checked[path.name] = found
        return found

    def _make(self, path: Path, key: Key, make: Callable[[CaptureWriter], None]) -> Capture:
        writable(self.root)
        with locked(self.root / f".{path.name}.lock"):
            found = _open(path, key)
            if found is not None:
                return found
            for stale in self.root.glob(f".{path.name}.*.partial"):
                shutil.rmtree(stale, ignore_errors=True)
            partial = self.root / f".{path.name}.{os.getpid()}.partial"
            partial.mkdir()
            try:
                writer = CaptureWriter(partial)
                make(writer)
                writer.finish()
                meta = {"format": FORMAT, "key": dict(key), "facts": writer.facts, "files": writer.files}
                (partial / META).write_text(json.dumps(meta, indent=1))
                if path.exists():
                    shutil.rmtree(path)
                partial.rename(path)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            self._tidy()
            return Capture(path, writer.facts, writer.files)

    def _tidy(self) -> None:
        """Remove what has been unused for long, as far as the limit asks for it."""
        found = []
        for meta in self.root.glob(f"*/{META}"):
            with contextlib.suppress(OSError):
                size = sum(file.stat().st_size for file in meta.parent.iterdir())
                found.append((meta.stat().st_mtime, size, meta.parent))
        total = sum(size for _, size, _ in found)
        for used, size, path in sorted(found):
            if total <= self.limit or used > time.time() - UNUSED_SECONDS:
                return
            shutil.rmtree(path, ignore_errors=True)
            total -= size


def _open(path: Path, key: Key) -> Capture | None:
    """The capture, if it is there, of this key, and every file has the size and checksum that it was written with."""
    try:
        meta = json.loads((path / META).read_text())
        if meta["format"] != FORMAT or meta["key"] != dict(key):
            return None
        for name, promised in meta["files"].items():
            with (path / f"{name}.npy").open("rb") as file:
                if os.fstat(file.fileno()).st_size != promised["bytes"]:
                    return None
                if hashlib.file_digest(file, "sha256").hexdigest() != promised["sha256"]:
                    return None
        return Capture(path, meta["facts"], meta["files"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _failure(error: OSError, root: Path) -> DiskFullError | CacheError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return (DiskFullError if full else CacheError)(*_explain(error, root))
