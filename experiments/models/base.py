"""What a model is to an experiment, and what a bundled model must say about itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, computed_field, field_serializer, model_validator

from swarm.kernels.errors import ModelError
from swarm.kernels.layer_shape import LayerKind, LayerShape
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

    `layers` says what each layer keeps, numbered as packed caches are. `n_heads` are the query heads. `scales` is the
    factor on the attention logits per layer, None where a layer has none or the model computes it out of sight.
    `scale_kind` is `learned` if queries and keys are normalised with trained weights (QK-norm), so that the logits'
    magnitude does not follow from the head size. `digest` is a SHA-256 over configuration and weights; empty while
    they are not on this machine. `bos` says that text must begin with the tokenizer's beginning-of-sequence token.

    Release 0.1 knew models whose layers are alike but for their windows, by `n_layers`, `n_kv_heads`, `head_dim` and
    `windows`: stores hold such facts.
    """

    name: str
    family: str
    digest: str = ""
    layers: tuple[LayerShape, ...] = Field(min_length=1)
    n_heads: int = Field(ge=1)
    scales: tuple[float | None, ...]
    scale_kind: ScaleKind
    key_bias: bool
    vocab_size: int = Field(ge=1)
    max_context: int = Field(ge=1)
    bos: bool = False
    bundled: bool = False
    available: bool = False

    @model_validator(mode="before")
    @classmethod
    def _alike(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own = {name: data[name] for name in data if name not in ALIKE}
        return own if "layers" in own else {**own, "layers": _layers_alike(data)}

    @field_serializer("layers")
    def _only_what_differs(self, layers: tuple[LayerShape, ...]) -> list[dict[str, Any]]:
        return [layer.model_dump(exclude_defaults=True) for layer in layers]

    @computed_field  # type: ignore[prop-decorator]
    @property
    def n_layers(self) -> int:
        """All layers, those without keys and values included."""
        return len(self.layers)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def n_kv_heads(self) -> int:
        """KV heads of the layer that holds most."""
        return self._widest.kv_heads

    @computed_field  # type: ignore[prop-decorator]
    @property
    def head_dim(self) -> int:
        """Size of a key of the layer that holds most."""
        return self._widest.key_dim

    @property
    def _widest(self) -> LayerShape:
        return max(self.layers, key=lambda layer: layer.token_values)

    @property
    def kv_layers(self) -> tuple[int, ...]:
        """Numbers of the layers that keep keys and values, or latents."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.kv_heads)

    @property
    def shown_layers(self) -> tuple[int, ...]:
        """Layers whose attention can be measured alone: it reads the keys and values that the cache was given."""
        return tuple(n for n in self.kv_layers if self.scales[n] is not None and not self.layers[n].latent)

    def dims(self, side: Literal["key", "value"]) -> tuple[int, ...]:
        """The sizes of keys or values that layers have, ascending."""
        return tuple(sorted({getattr(self.layers[number], f"{side}_dim") for number in self.kv_layers}))

    @property
    def windows(self) -> tuple[int | None, ...]:
        """How many tokens a query of each layer sees at most, None for all."""
        return tuple(layer.reach for layer in self.layers)

    def of_kind(self, kind: LayerKind) -> tuple[int, ...]:
        """Numbers of the layers of a kind."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.kind == kind)

    def layer_name(self, layer: int) -> str:
        """A layer in words, with its kind where the model has several: `layer 5 (global)`."""
        return f"layer {layer} ({self.layers[layer].kind})" if len(self.kinds) > 1 else f"layer {layer}"

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kinds of layers that keep keys and values, in alphabetical order."""
        return tuple(sorted({self.layers[number].kind for number in self.kv_layers}))


ALIKE = ("n_layers", "n_kv_heads", "head_dim", "windows")


def _layers_alike(data: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Layers of one shape, from the fields in `ALIKE`."""
    missing = [name for name in ALIKE if name not in data]
    if missing:
        raise ValueError(f"give the layers, or all of {', '.join(ALIKE)}: {missing[0]} is missing")
    shape = {"kv_heads": data["n_kv_heads"], "key_dim": data["head_dim"], "value_dim": data["head_dim"]}
    if len(data["windows"]) != data["n_layers"]:
        raise ValueError(f"{len(data['windows'])} windows for {data['n_layers']} layers")
    return [{**shape, "window": window} for window in data["windows"]]


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


def numbered_parts(distribution: str, version: str, path: str, files: Sequence[tuple[int, str]]) -> tuple[Part, ...]:
    """The pieces of one GGUF file that numbered distributions carry, in order.

    Args:
        distribution: name with `{number}`, which counts from 1.
        version: the same for all.
        path: file inside the distribution, with `{number}` or with `{index}`, which counts from 0.
        files: size in bytes and SHA-256 of every piece.
    """
    return tuple(
        Part(
            distribution=distribution.format(number=index + 1),
            version=version,
            path=path.format(index=index, number=index + 1),
            size=size,
            sha256=sha256,
        )
        for index, (size, sha256) in enumerate(files)
    )


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
