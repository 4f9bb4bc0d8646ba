"""Finds models that are not bundled: a local directory, or a Hugging Face id through its own client and cache."""

from __future__ import annotations

import re
from pathlib import Path

from swarm.kernels.errors import ModelError, UnknownNameError

ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
SMALL = ["*.json", "tokenizer.model", "*.tiktoken", "*.txt", "*.jinja"]
WHOLE = [*SMALL, "model*.safetensors"]
NEEDED = "A model directory has config.json, model*.safetensors and tokenizer.json."


def is_id(name: str) -> bool:
    """Whether a name looks like a Hugging Face id (`owner/model`) and is no path that exists."""
    return ID.fullmatch(name) is not None and not Path(name).exists()


def directory(name: str, known: str) -> Path:
    """The local directory of that name.

    Raises:
        ModelError: it is no model directory.
        UnknownNameError: no such directory; `known` lists the bundled models.
    """
    path = Path(name).expanduser()
    if not name or not path.exists():
        raise UnknownNameError("model", name, f"{known}, a Hugging Face id (owner/model), or a local directory")
    if not (path / "config.json").is_file():
        raise ModelError(f"{name} is not a model directory: it has no config.json.", NEEDED)
    return path.resolve()


def downloaded(name: str) -> Path | None:
    """The snapshot of a Hugging Face id in the local cache; None if it is not there with its weights."""
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(name, allow_patterns=WHOLE, local_files_only=True))
    except (OSError, ValueError):
        return None
    return path if any(path.glob("model*.safetensors")) else None


def fetch(name: str, *, weights: bool) -> Path:
    """Download a Hugging Face id, or only its configuration and tokenizer; what is in the cache is used.

    Raises:
        ModelError: there is no network, no such model, or no access to it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    present = downloaded(name)
    if present is not None:
        return present
    try:
        path = Path(snapshot_download(name, allow_patterns=WHOLE if weights else SMALL))
    except GatedRepoError as error:
        raise ModelError(
            f"access to {name} on the Hugging Face hub is restricted.",
            f"Accept its terms at https://huggingface.co/{name} and run `hf auth login`.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"there is no model {name} on the Hugging Face hub, or you may not see it.",
            "Check the name; for a private model run `hf auth login`.",
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0].rstrip(".")
        raise ModelError(
            f"{name} cannot be fetched from the Hugging Face hub: {reason}.",
            "Check the network, give a local directory, or use a bundled model (`swarm models`).",
        ) from error
    if not (path / "config.json").is_file() or (weights and not any(path.glob("model*.safetensors"))):
        raise ModelError(f"{name} has no weights that mlx-lm can load.", NEEDED)
    return path
