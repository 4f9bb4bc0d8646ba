"""Converts a GGUF file to a directory that mlx-lm loads: config.json, model.safetensors, tokenizer files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments.models import gguf_tokenizer
from swarm.experiments.models.architectures import base as architectures
from swarm.experiments.models.base import Progress, WeightsError
from swarm.experiments.models.gguf import GGUFFile
from swarm.experiments.models.loading import skeleton
from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
# A tensor of more values is converted piece by piece; only embeddings are, and no family changes those.
WHOLE_VALUES = 32 << 20
"""Values of a tensor up to which it is converted at once."""


def convert(source: Path, folder: Path, extra: Mapping[str, Any], progress: Progress) -> None:
    """Write the model in the GGUF file `source` into the empty `folder`, weights as float16.

    `extra` are configuration entries that the file does not carry.

    Raises:
        WeightsError: an architecture, tokenizer or tensor that does not fit.
        OSError: the disk is full or not writable.
    """
    with GGUFFile(source) as gguf_file:
        with _explained(source):
            family = architectures.architecture(gguf_file.metadata, frozenset(gguf_file.tensors))
            config = {**family.config(), **_special_tokens(gguf_file.metadata), **extra}
            names = _names(gguf_file, family, config)
        (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        shapes = {name: gguf_file.tensors[stored].shape for name, stored in names.items()}
        total = sum(2 * prod(shape) for shape in shapes.values())
        tensors = ((name, _pieces(gguf_file, family, name, stored)) for name, stored in names.items())
        with _explained(source):
            for done in write_float16(folder / WEIGHTS, shapes, tensors):
                progress("convert", done, total)
        with _explained(source):
            gguf_tokenizer.write(gguf_file.metadata, folder)


@contextmanager
def _explained(source: Path) -> Iterator[None]:
    """A file with contents that make no model is refused, whatever the libraries say to it."""
    try:
        yield
    except (SwarmError, OSError, MemoryError):
        raise
    except Exception as error:  # the tokenizers package raises nothing more specific
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{source} cannot be converted: {reason}.", "Use another file.") from error


def _special_tokens(metadata: Mapping[str, Any]) -> dict[str, int]:
    keys = {name: f"tokenizer.ggml.{name}" for name in ("bos_token_id", "eos_token_id")}
    return {name: metadata[key] for name, key in keys.items() if key in metadata}


def _names(gguf_file: GGUFFile, family: architectures.Architecture, config: dict[str, Any]) -> dict[str, str]:
    """mlx-lm's parameter names (sorted) with the names under which the file stores them; shapes must agree."""
    import gguf
    from mlx.utils import tree_flatten

    if config["num_hidden_layers"] > len(gguf_file.tensors):
        raise WeightsError(f"{gguf_file.path} has fewer tensors than layers.", "Use another file.")
    model = skeleton(config)
    known = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}[family.name]
    table = gguf.get_tensor_name_map(known, config["num_hidden_layers"])
    names: dict[str, str] = {}
    for name, parameter in tree_flatten(model.parameters()):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        stored = table.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored not in gguf_file.tensors:
            raise WeightsError(f"{gguf_file.path} has no tensor for {name}.", "Use another file.")
        if gguf_file.tensors[stored].shape != parameter.shape:
            raise WeightsError(f"{stored} in {gguf_file.path} has another shape than {name}.", "Use another file.")
        names[name] = stored
    return dict(sorted(names.items()))


def _pieces(
    gguf_file: GGUFFile, family: architectures.Architecture, name: str, stored: str
) -> Iterator[NDArray[np.float32]]:
    if prod(gguf_file.tensors[stored].shape) > WHOLE_VALUES:
        yield from gguf_file.rows(stored)
    else:
        yield family.restore(name, gguf_file.array(stored))


def write_float16(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, Iterable[NDArray[np.float32]]]]
) -> Iterator[int]:
    """Write `tensors` (name, pieces along the first axis) as float16 and yield the bytes written so far.

    The format (safetensors): 8 bytes length, a JSON header, then the data. It is written tensor by tensor, so that a
    conversion never holds a model, with bytes fixed for ever.

    `shapes` gives the names in the order in which `tensors` brings them. The file is synced to disk.

    Raises:
        ValueError: a tensor has another size than announced, or values beyond float16.
        OSError: the disk is full or not writable.
    """
    import numpy as np

    header: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, shape in shapes.items():
        end = at + 2 * prod(shape)
        header[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        done = 0
        for name, pieces in tensors:
            before = done
            for piece in pieces:
                if not np.all(np.abs(piece) <= np.finfo(np.float16).max):
                    raise ValueError(f"{name} has values that float16 cannot hold")
                done += file.write(np.ascontiguousarray(piece, np.float16).tobytes())
                yield done
            if done - before != 2 * prod(shapes[name]):
                raise ValueError(f"{name} has another size than its shape {shapes[name]}")
        file.flush()
        os.fsync(file.fileno())
