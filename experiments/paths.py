"""Where files live that can be made again: the user cache. Knows no models and no stores."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from swarm.kernels.errors import SwarmError


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
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CacheError(*explain(error, path)) from error
    if not os.access(path, os.W_OK | os.X_OK):
        raise CacheError(*explain(PermissionError(errno.EACCES, "Permission denied"), path))
    return path


def explain(error: OSError, path: Path) -> tuple[str, str]:
    """Problem and remedy of a failed write under `path`, in the words of a user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"no space left on the disk of {path}.", "Free some space, or point SWARM_CACHE at another disk."
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission to write to {path}.", "Point SWARM_CACHE at a directory that you can write."
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{path} is not a directory.", "Point SWARM_CACHE at a directory."
    return f"cannot write to {path}: {error.strerror or error}.", "Point SWARM_CACHE at another directory."
