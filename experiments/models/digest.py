"""Digests of a model directory: of configuration and weights, kept while the files do not change; of the tokenizer."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from swarm.experiments import artifacts

TOKENIZER_SUFFIXES = {".json", ".model", ".txt", ".tiktoken"}


def sha256(path: Path) -> str:
    """SHA-256 of a file; a process reads a file again when it has changed."""
    return _sha256(path, _stamp(path))


@lru_cache(maxsize=1024)
def _sha256(path: Path, stamp: tuple[int, int]) -> str:  # noqa: ARG001 - of the file as it is now
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_files(files: dict[str, str]) -> str:
    """Digest of a model from the SHA-256 of its files: configuration and weights count, tokenizer files do not."""
    lines = [
        f"{name} {value}\n"
        for name, value in sorted(files.items())
        if name == "config.json" or name.endswith((".safetensors", ".gguf"))
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def of_folder(folder: Path) -> str:
    """Digest of a model directory; the first time every weight is read (some seconds per 10 GB)."""
    return of_weights([folder / "config.json", *sorted(folder.glob("model*.safetensors"))])


def of_weights(files: list[Path]) -> str:
    """Digest of the files of a model, kept while they do not change."""
    stamp = json.dumps([[str(path.resolve()), *_stamp(path)] for path in files])
    note = artifacts.cache_dir() / "digests" / hashlib.sha256(stamp.encode()).hexdigest()[:32]
    try:
        known = note.read_text(encoding="ascii")
        if len(known) == 64:
            return known
    except (OSError, ValueError):
        pass
    digest = of_files({path.name: sha256(path) for path in files})
    try:
        artifacts.writable(note.parent)
        note.write_text(digest, encoding="ascii")
    except (OSError, artifacts.CacheError):
        return digest  # a cache that cannot be written costs time only
    return digest


def of_tokenizer(folder: Path) -> str:
    """Digest of everything in a model directory that a tokenizer may read."""
    files = sorted(path for path in folder.iterdir() if path.suffix in TOKENIZER_SUFFIXES)
    lines = [f"{path.name} {sha256(path)}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    facts = path.stat()
    return facts.st_size, facts.st_mtime_ns
