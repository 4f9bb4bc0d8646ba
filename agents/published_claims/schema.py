"""Published claims as a file: what is said, the trials that decide it, and the threshold.

See `agents/published_claims/open-tq-metal.toml` for the form; `--agenda` takes a name from that folder, or a path.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator

from swarm.experiments.edits import WeightEdits
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.protocols import base as protocols
from swarm.experiments.space.sides import side
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError, SwarmError, UnknownNameError, UsageError
from swarm.kernels.spec import FrozenModel, KVSpec, QuantSpec

FOLDER = Path(__file__).parent

Selector = Literal["all", "learned", "fixed", "key_bias", "no_key_bias"]
SELECTORS: Mapping[Selector, tuple[str, Callable[[ModelInfo], bool]]] = {
    "all": ("any", lambda _: True),
    "learned": ("with learned attention scaling", lambda info: info.scale_kind == "learned"),
    "fixed": ("with fixed attention scaling", lambda info: info.scale_kind == "fixed"),
    "key_bias": ("with a key bias", lambda info: info.key_bias),
    "no_key_bias": ("without a key bias", lambda info: not info.key_bias),
}
"""Which models a claim is about: in words, and as a test."""

Test = Literal["pair", "contrast", "threshold", "growth", "law"]
NEEDED: Mapping[Test, tuple[str, ...]] = {
    "pair": ("b",),
    "contrast": ("b", "against"),
    "threshold": ("threshold",),
    "growth": ("depths",),
    "law": ("gains",),
}
"""Fields that a claim must give for its test."""


class AgendaError(UsageError):
    """An agenda that cannot be read, or that asks for what does not exist."""


class SideChoice(FrozenModel):
    """How keys or values are quantized; what is left out is the first that fits the model."""

    method: str
    bits: int | None = None
    group_size: int | None = None
    axis: str | None = None
    rotation: str | None = None
    scaling: str | None = None

    def of(self, name: Literal["key", "value"], info: ModelInfo) -> QuantSpec:
        """The specification for keys or values of a model.

        Raises:
            SpecError: no such specification fits.
        """
        wanted = self.model_dump(exclude={"method"}, exclude_none=True)
        dims = info.dims(name)
        # Unasked-for rotation is none: a claim is about what it names.
        found = side(name, *dims).default(self.method, **({"rotation": "none"} | wanted)) or side(name, *dims).default(
            self.method, **wanted
        )
        if found is None:
            raise SpecError(f"{self.method} for {name}s does not fit head size {dims[0]} with {wanted}.")
        return found


class Setup(FrozenModel):
    """One side of a comparison: a cache configuration and how it is measured.

    `kv` is one configuration for all models, as text (`K affine4/g64 V kivi2/g32 sink4`); `both`, or `key` and `value`,
    with the fields below leave open what fits each model. `context` is in tokens; the campaign's, if left out.
    """

    kv: KVSpec | None = None
    both: SideChoice | None = None
    key: SideChoice | None = None
    value: SideChoice | None = None
    sink_tokens: int = 0
    residual_window: int = 0
    key_bias: Literal["keep", "subtract"] = "keep"
    protocol: str = "quality"
    rung: int = 0
    logit_gain: float = 1.0
    edits: WeightEdits = ()
    context: int | None = Field(default=None, ge=2, exclude_if=lambda context: context is None)

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        given = (self.kv is not None, self.both is not None, self.key is not None or self.value is not None)
        if sum(given) != 1:
            raise AgendaError("a setup needs `kv`, or `both`, or `key` and `value`.", "Give one of them.")
        if self.kv is not None and (self.sink_tokens or self.residual_window or self.key_bias != "keep"):
            raise AgendaError("a setup with `kv` says everything about the cache in it.", "Move the rest into `kv`.")
        if self.rung >= len(protocols.protocol(self.protocol).rungs):
            raise AgendaError(f"protocol {self.protocol} has no rung {self.rung}.", "Choose a lower one.")
        return self

    def spec(self, template: TrialSpec, info: ModelInfo) -> TrialSpec:
        """The trial of this setup on a model.

        Raises:
            SpecError: the model cannot run it.
        """
        none = SideChoice(method="none")
        kv = self.kv or KVSpec(
            key=(self.both or self.key or none).of("key", info),
            value=(self.both or self.value or none).of("value", info),
            sink_tokens=self.sink_tokens,
            residual_window=self.residual_window,
            key_bias=self.key_bias,
        )
        changes = {
            "kv": kv,
            "protocol": self.protocol,
            "rung": self.rung,
            "logit_gain": self.logit_gain,
            "edits": self.edits,
            **({"context": self.context} if self.context is not None else {}),
        }
        return template.model_copy(update=changes)


class PublishedClaim(FrozenModel):
    """A hypothesis: a relation of `agents.analysis.claims` as its test, the models it is about, and the threshold.

    For `within`, the interval must lie between `low` and `high` (left out: 1/threshold and threshold). `growth` takes
    the shares of the layers in `depths`, `law` the logit gains in `gains`.
    """

    id: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    says: str = Field(max_length=300)
    source: str = ""
    test: Test
    a: Setup
    b: Setup | None = None
    metric: str = "kld"
    on: Selector = "all"
    against: Selector | None = None
    comparator: Literal["<=", ">=", "within"]
    threshold: float | None = Field(default=None, gt=0)
    low: float | None = None
    high: float | None = None
    depths: tuple[float, ...] = ()
    gains: tuple[float, ...] = ()

    @model_validator(mode="after")
    def _check_needed(self) -> Self:
        for field in NEEDED[self.test]:
            if not getattr(self, field):
                raise AgendaError(f"claim {self.id}: the test {self.test} needs `{field}`.", "Add it.")
        return self

    @property
    def bounds(self) -> tuple[float, float]:
        """Where the claim is true: the effect lies between these."""
        if self.comparator == "within":
            low = self.low if self.low is not None else 1 / (self.threshold or 1.0)
            return low, self.high if self.high is not None else (self.threshold or 1.0)
        limit = self.threshold if self.threshold is not None else 1.0
        return (limit, float("inf")) if self.comparator == ">=" else (float("-inf"), limit)

    def applications(self, infos: Mapping[str, ModelInfo]) -> list[tuple[str, ...]]:
        """The models, or pairs of models, that the claim is applied to."""
        ours = selected(self.on, infos)
        if self.test != "contrast":
            return [(model,) for model in ours]
        return [(one, other) for one in ours for other in selected(self.against or "all", infos) if one != other]

    def parts(self, template: TrialSpec, info: ModelInfo) -> dict[str, TrialSpec]:
        """The trials on one model, without their replicates, by their part in the test; references come first.

        Raises:
            SpecError: the model cannot run one.
        """
        if self.b is not None and self.test in ("pair", "contrast"):
            return {name: setup.spec(template, info) for name, setup in (("b", self.b), ("a", self.a))}
        a = self.a.spec(template, info)
        if self.test == "law":
            fixed = {"protocol": "attention", "rung": 0}
            return {f"{gain:g}": a.model_copy(update={**fixed, "logit_gain": gain}) for gain in sorted(self.gains)}
        if self.test == "growth":
            kept = info.kv_layers
            n_layers = len(kept)
            whole = a.model_copy(update={"protocol": "depth", "rung": 0})
            depths = [max(1, min(n_layers, round(share * n_layers))) for share in sorted(self.depths)]
            caches = {f"{n}": whole.kv.on(None if n == n_layers else kept[:n]) for n in depths}
            return {name: whole.model_copy(update={"kv": kv}) for name, kv in caches.items()}
        return {"a": a}


class Agenda(FrozenModel):
    """A list of claims; each trial is repeated on `replicates` sets of text windows, with as many seeds."""

    name: str
    title: str
    source: str = ""
    replicates: int = Field(default=3, ge=2, le=20)
    claim: tuple[PublishedClaim, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_ids(self) -> Self:
        if len({claim.id for claim in self.claim}) != len(self.claim):
            raise AgendaError("two claims have the same id.", "Give each its own.")
        return self

    @property
    def digest(self) -> str:
        """What identifies its claims: a campaign that goes on must go on with the same."""
        setups = [setup for claim in self.claim for setup in (claim.a, claim.b) if setup is not None]
        # Agendas without `kv` have the digest that release 0.1 gave them.
        text = self.model_dump_json(exclude={"claim": {"__all__": {"a": {"kv"}, "b": {"kv"}}}})
        text += "".join(setup.kv.label for setup in setups if setup.kv is not None)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def names() -> list[str]:
    """The agendas that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load(name_or_path: str) -> Agenda:
    """Read an agenda.

    Raises:
        UnknownNameError: neither an agenda's name nor a file.
        AgendaError: the file is no agenda, with the place.
    """
    path = FOLDER / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise UnknownNameError("agenda", name_or_path, f"{', '.join(names())}, or the path of a TOML file")
    try:
        document = tomllib.loads(path.read_text("utf-8"))
        return Agenda.model_validate({"name": path.stem, **document})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise AgendaError(f"{path} is not TOML: {error}.", "Correct the file.") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        given = f" (given: {first['input']!r})" if isinstance(first["input"], str) else ""
        raise AgendaError(f"{path}: {where}: {first['msg']}{given}.", "See open-tq-metal for the form.") from error
    except SwarmError as error:
        raise AgendaError(f"{path}: {error.problem}", error.remedy) from error


def selected(selector: Selector, infos: Mapping[str, ModelInfo]) -> list[str]:
    """The models that a selector means."""
    return [name for name, info in infos.items() if SELECTORS[selector][1](info)]
