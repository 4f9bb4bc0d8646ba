"""The cache of converted models: made once, by one process at a time, complete or not at all, and checksummed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from swarm.experiments import paths
from swarm.experiments.models import _convert, _digest, _parts
from swarm.experiments.models._safetensors import sha256
from swarm.experiments.models.base import BundledModel, Progress, WeightsError

MANIFEST = "manifest.json"


def folder_of(model: type[BundledModel]) -> Path:
    """Where the converted model belongs; another conversion has another digest and so another place."""
    return paths.cache_dir() / "models" / f"{model.name}-{model.digest[:12]}"


def converted(model: type[BundledModel], progress: Progress) -> Path:
    """The directory of the converted model, made if needed and verified file by file.

    Raises:
        WeightsError: weights that are missing, truncated or altered, before or after conversion.
        CacheError: the disk is full or not writable.
    """
    folder = folder_of(model)
    if not folder.exists():
        parent = paths.writable(folder.parent)
        with _locked(parent / f".{model.name}.lock"):
            if not folder.exists():
                _make(model, folder, progress)
    verify(folder, model.digest)
    return folder


def verify(folder: Path, expected: str) -> None:
    """Check every file of a converted model against its manifest, and the model against its known digest.

    Raises:
        WeightsError: a file is missing, cut short or altered.
    """
    remedy = f"Remove {folder} and run again: it will be made anew."
    try:
        files: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, known in files.items():
            if sha256(folder / name) != known:
                raise WeightsError(f"{folder / name} is damaged or altered: its SHA-256 is not the known one.", remedy)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the converted model in {folder} is incomplete: {error}.", remedy) from error
    if _digest.of_files(files) != expected:
        raise WeightsError(f"the converted model in {folder} is not the one this release makes.", remedy)


def _make(model: type[BundledModel], folder: Path, progress: Progress) -> None:
    for stale in folder.parent.glob(f".{model.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    pieces = _parts.verified(model, progress)
    try:
        work = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=folder.parent))
    except OSError as error:
        raise paths.CacheError(*paths.explain(error, folder.parent)) from error
    try:
        target = work / "model"
        target.mkdir()
        source = _assembled(pieces, work / "source.gguf", progress)
        _convert.convert(source, target, model.config(), progress)
        files = {path.name: sha256(path) for path in sorted(target.iterdir())}
        _check_made(model, _digest.of_files(files))
        sources = {part.path: part.sha256 for part in model.parts}
        manifest = {"model": model.name, "license": model.license, "files": files, "sources": sources}
        (target / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        _sync(target)
        target.rename(folder)
    except OSError as error:
        raise paths.CacheError(*paths.explain(error, folder.parent)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _check_made(model: type[BundledModel], made: str) -> None:
    if made != model.digest:
        raise WeightsError(
            f"converting {model.name} gave digest {made[:12]}, not the known {model.digest[:12]}.",
            "Install the locked versions of gguf and numpy (`uv sync`), or report this with their versions.",
        )


def _assembled(pieces: list[Path], target: Path, progress: Progress) -> Path:
    if len(pieces) == 1:
        return pieces[0]
    total = sum(piece.stat().st_size for piece in pieces)
    done = 0
    with target.open("wb") as out:
        for piece in pieces:
            with piece.open("rb") as file:
                shutil.copyfileobj(file, out, 1 << 20)
            done += piece.stat().st_size
            progress("assemble", done, total)
    return target


def _sync(folder: Path) -> None:
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path`, waiting for another process that converts the same model."""
    try:
        file = path.open("a")
    except OSError as error:
        raise paths.CacheError(*paths.explain(error, path.parent)) from error
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
