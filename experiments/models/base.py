"""What a model is to an experiment, and what a bundled model must say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from swarm.kernels.errors import ModelError
from swarm.kernels.spec import FrozenModel

if TYPE_CHECKING:
    import mlx.nn as nn
    from mlx_lm.tokenizer_utils import TokenizerWrapper

PACKAGE = "swarm.experiments.models.bundled"
ScaleKind = Literal["fixed", "learned"]

Progress = Callable[[str, int, int], None]
"""Called as `progress(stage, done, total)`, in bytes; stages are `verify`, `assemble` and `convert`."""


class WeightsError(ModelError):
    """Weight files that are missing, truncated or not what their checksum says."""


class ModelInfo(FrozenModel):
    """Facts about a model, as far as its KV cache is concerned.

    `scales` is the factor on the attention logits per layer. `scale_kind` is `learned` if queries and keys are
    normalised with trained weights (QK-norm), so that the logits' magnitude does not follow from the head size.
    `windows` are the sliding windows per layer in tokens, None for full attention. `digest` is a SHA-256 over
    configuration and weights; empty while they are not on this machine. `bos` says that text must begin with the
    tokenizer's beginning-of-sequence token.
    """

    name: str
    family: str
    digest: str = ""
    n_layers: int = Field(ge=1)
    n_heads: int = Field(ge=1)
    n_kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    scales: tuple[float, ...]
    scale_kind: ScaleKind
    windows: tuple[int | None, ...]
    key_bias: bool
    vocab_size: int = Field(ge=1)
    max_context: int = Field(ge=1)
    bos: bool = False
    bundled: bool = False
    available: bool = False


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, ready to run: `model` is the mlx-lm module, `tokenizer_digest` covers the tokenizer's files.

    The tokenizer is read when it is first asked for: a large vocabulary takes seconds and hundreds of megabytes, and
    most trials read text that was tokenized before.
    """

    model: nn.Module
    info: ModelInfo
    read_tokenizer: Callable[[], TokenizerWrapper]
    tokenizer_digest: Callable[[], str]

    @cached_property
    def tokenizer(self) -> TokenizerWrapper:
        """mlx-lm's tokenizer wrapper.

        Raises:
            ModelError: its files cannot be read.
        """
        return self.read_tokenizer()


@dataclass(frozen=True)
class Part:
    """A file of an installed distribution: a GGUF file, or one piece of it. It is read, never imported."""

    distribution: str
    version: str
    path: str
    size: int
    sha256: str


class BundledModel(ABC):
    """A model whose weights come with a package from the package index.

    Attributes:
        name: the registry name.
        group: the dependency group that installs the packages.
        parts: the pieces of the GGUF file, in order.
        digest: SHA-256 over the converted configuration and weights.
        license: SPDX id or name of the terms.
    """

    name: ClassVar[str]
    group: ClassVar[str]
    parts: ClassVar[tuple[Part, ...]]
    digest: ClassVar[str]
    license: ClassVar[str]

    @classmethod
    @abstractmethod
    def info(cls) -> ModelInfo:
        """Facts of the model as constants, `available` left out; a test compares them with the loaded model."""

    @classmethod
    def config(cls) -> Mapping[str, Any]:
        """Configuration entries that the GGUF file does not carry."""
        return {}
