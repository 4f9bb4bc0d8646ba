"""Finds models that other programs have downloaded, under the names that people type there: Ollama, Hugging Face."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OLLAMA_REGISTRY = "registry.ollama.ai"
HUB_HOSTS = ("hf.co", "huggingface.co")
WEIGHTS_LAYER = "application/vnd.ollama.image.model"
# What Ollama fetches when a name says no size: the tag `latest` of its library.
OLLAMA_SIZES = {
    "llama2": "7b",
    "llama3": "8b",
    "llama3.1": "8b",
    "llama3.2": "3b",
    "llama3.3": "70b",
    "mistral": "7b",
    "mixtral": "8x7b",
    "mistral-nemo": "12b",
    "gemma2": "9b",
    "gemma3": "4b",
    "gemma3n": "e4b",
    "phi3": "mini",
    "phi4": "14b",
    "qwen2": "7b",
    "qwen2.5": "7b",
    "qwen2.5-coder": "7b",
    "qwen3": "8b",
    "qwen3-coder": "30b",
    "gpt-oss": "20b",
    "smollm2": "1.7b",
    "deepseek-v3": "671b",
    "llama4": "scout",
}


@dataclass(frozen=True)
class Reference:
    """A name in its parts: `hf.co/user/repo:Q4_K_M` is host `hf.co`, path `user/repo`, tag `Q4_K_M`."""

    host: str
    path: str
    tag: str

    @classmethod
    def parse(cls, name: str) -> Reference:
        """Read a name as Ollama and Hugging Face write them; an address in front is dropped."""
        text = re.sub(r"^https?://", "", name.strip()).rstrip("/")
        head, colon, tag = text.rpartition(":")
        if not colon or "/" in tag:
            head, tag = text, ""
        first, _, rest = head.partition("/")
        if "." in first and rest.count("/") >= 1:
            return cls(first.lower(), rest, tag)
        return cls("", head, tag)

    @property
    def hub_id(self) -> str | None:
        """The Hugging Face id, `user/repo`, where the name can be one."""
        return self.path if self.path.count("/") == 1 and self.host in ("", *HUB_HOSTS) else None

    @property
    def plain(self) -> str:
        """The name without its host; in the place of the tag `latest` the size that Ollama means by it."""
        tag = OLLAMA_SIZES.get(self.path.lower(), "") if self.tag == "latest" else self.tag
        return f"{self.path}:{tag}" if tag else self.path


def ollama_blob(reference: Reference) -> Path | None:
    """The weights that Ollama keeps under a name on this machine; None where it has no such model."""
    host = reference.host or OLLAMA_REGISTRY
    path = reference.path if "/" in reference.path else f"library/{reference.path}"
    for root in _ollama_folders():
        manifest = root / "manifests" / host / path / (reference.tag or "latest")
        try:
            layers = json.loads(manifest.read_text(encoding="utf-8"))["layers"]
            digest = next(layer["digest"] for layer in layers if layer["mediaType"] == WEIGHTS_LAYER)
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            continue
        blob = root / "blobs" / str(digest).replace(":", "-")
        if blob.is_file():
            return blob
    return None


def ollama_models() -> Iterator[str]:
    """The names of the models that Ollama keeps on this machine."""
    for root in _ollama_folders():
        for manifest in sorted((root / "manifests").glob("*/*/*/*")):
            host, user, model, tag = manifest.relative_to(root / "manifests").parts
            place = [part for part in (host, user) if part not in (OLLAMA_REGISTRY, "library")]
            yield "/".join([*place, model]) + f":{tag}"


def _ollama_folders() -> list[Path]:
    given = os.environ.get("OLLAMA_MODELS")
    usual = [Path.home() / ".ollama/models", Path("/usr/share/ollama/.ollama/models")]
    return [path for path in ([Path(given)] if given else usual) if path.is_dir()]


def hub_snapshot(reference: Reference) -> Path | None:
    """What was downloaded of a Hugging Face id: its directory, or the GGUF file that the tag names. Fetches nothing."""
    if reference.hub_id is None:
        return None
    import huggingface_hub.constants
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(reference.hub_id, "config.json")
    except HFValidationError:
        return None
    if isinstance(found, str) and not reference.tag:
        return Path(found).parent
    folder = Path(huggingface_hub.constants.HF_HUB_CACHE) / f"models--{reference.hub_id.replace('/', '--')}"
    files = sorted((folder / "snapshots").glob("*/**/*.gguf"))
    wanted = [file for file in files if reference.tag.lower() in file.name.lower() and not is_projector(file)]
    if wanted:
        return wanted[0] if reference.tag else wanted[0].parent  # which asks for one where there are several
    return Path(found).parent if isinstance(found, str) else None


def is_projector(path: Path) -> bool:
    """Whether a GGUF file holds the image or audio encoder beside a language model, by the name that all give it."""
    return "mmproj" in path.name.lower()
