"""A recipe: a cache configuration that was measured, written down so that others can use it and check it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from swarm.experiments.measurement.learned_scaling import learns
from swarm.experiments.measurement.stored_factors import StoredFactors, digest, restored
from swarm.experiments.spec import Metric
from swarm.kernels.errors import SpecError, SwarmError, UsageError
from swarm.kernels.spec import FrozenModel, KVSpec, layers_in_kv, ranges

if TYPE_CHECKING:
    from swarm.kernels.cache import PackedKVCache

REST = "all others"
NUMBERS = re.compile(r"\[\s+((?:\d+,\s+)*\d+)\s+\]")


class RecipeError(UsageError):
    """A file that is no recipe, or one that cannot be used here."""


class LayerPlan(FrozenModel):
    """How some layers store keys and values, in words. Made from the configuration; for people only."""

    layers: str
    keys: str
    values: str


class Evidence(FrozenModel):
    """The trial that speaks for a recipe; `times` are what kernels took for it on its device, where that is known."""

    trial: int
    campaign: str
    fingerprint: str
    protocol: str
    rung: int
    context: int
    notes: str
    metrics: dict[str, Metric]
    device: str = ""
    versions: dict[str, str] = Field(default_factory=dict)
    code_version: str = ""
    times: dict[str, Metric] | None = None


class Recipe(FrozenModel):
    """A configuration of a model's KV cache with its evidence.

    `seed` decides random rotations; `factors` are the learned ones and `factors_digest` their SHA-256, empty when
    nothing was learned. `model_digest` pins the weights that were measured.
    """

    format: Literal["kv-swarm recipe 1"] = "kv-swarm recipe 1"
    model: str
    model_digest: str = ""
    kv: KVSpec
    seed: int = Field(default=0, ge=0)
    factors_digest: str = ""
    plan: tuple[LayerPlan, ...] = ()
    evidence: Evidence | None = None
    factors: tuple[StoredFactors, ...] = ()

    _read_layers = model_validator(mode="before")(layers_in_kv)

    @model_validator(mode="after")
    def _check_factors(self) -> Self:
        if digest(self.factors) != self.factors_digest:
            raise RecipeError("its learned factors are not those of its factors_digest.", _MAKE)
        if learns(self.kv) and not self.factors:
            raise RecipeError("it needs learned factors and has none.", _MAKE)
        return self

    def text(self) -> str:
        """The content of a recipe's file: indented, lists of numbers on one line."""
        indented = self.model_dump_json(indent=2, exclude_none=True)
        return NUMBERS.sub(lambda found: "[" + ", ".join(found[1].replace(",", " ").split()) + "]", indented) + "\n"

    def apply(self, model: Any) -> list[PackedKVCache]:
        """Empty caches for an mlx-lm model, one per layer, learned factors included: pass them as `prompt_cache`.

        Raises:
            SpecError: the configuration or its learned factors do not fit the model, for one made for other layers.
            ModelError: the model's cache cannot be packed.
        """
        from swarm.kernels.model_cache import make_cache

        try:
            return make_cache(model, self.kv, seed=self.seed, factors=restored(self.factors))
        except SpecError as error:
            if self.evidence is None:  # a configuration that was just given
                raise
            raise SpecError(f"A recipe made on {self.model}: {error.problem}", error.remedy) from error


def load_recipe(path: Path | str) -> Recipe:
    """The recipe in a file.

    Raises:
        RecipeError: the file cannot be read, or is no recipe.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file.", _MAKE) from error
    try:
        return Recipe.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError(f"{path} is no recipe: {where or 'JSON'}: {first['msg']}.", _MAKE) from error
    except SwarmError as error:
        raise RecipeError(f"{path} is no recipe: {error.problem}", error.remedy) from error


def plan(kv: KVSpec) -> tuple[LayerPlan, ...]:
    """The configuration layer by layer, as far as layers differ."""
    overridden = sorted({layer for override in kv.overrides for layer in override.layers})
    chosen = overridden if kv.layers is None else kv.layers
    by_label: dict[tuple[str, str], list[int]] = {}
    for layer in chosen:
        spec = kv.at(layer)
        by_label.setdefault((spec.key.label, spec.value.label), []).append(layer)
    named = [LayerPlan(layers=ranges(found), keys=keys, values=values) for (keys, values), found in by_label.items()]
    rest = KVSpec() if kv.layers is not None else kv
    return (*named, LayerPlan(layers=REST if named else "all", keys=rest.key.label, values=rest.value.label))


_MAKE = "Make one with `swarm recipe TRIAL > best.json`."
