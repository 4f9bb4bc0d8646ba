"""Plans and caches see the same layers in every family of mlx-lm: in its configuration, and in the real caches."""

import dataclasses
import importlib
import sys
from types import ModuleType

import pytest
from families.build import TEXT_MODELS, build, config, families, text, uncompiled

from swarm.experiments.sizing import config as fields
from swarm.experiments.sizing.built import read_here
from swarm.experiments.sizing.method import both, per_token
from swarm.kernels import layers
from swarm.kernels.errors import ModelError
from swarm.kernels.model_cache import make_cache, packed_layers
from swarm.kernels.quant_spec import QuantSpec

WITHOUT = {"mamba", "mamba2", "rwkv7", "deepseek_v41", "olmo"}
"""Families without keys and values that could be packed, or that do not run."""
OTHERWISE = {
    "deepseek_v2": "mlx-lm keeps the heads that other engines keep as a latent",
    "llama4_text": "mlx-lm has no chunks in the text model alone",
    "mistral3": "mlx-lm has no windows in the model with images",
}
"""Families whose plan says on purpose what other engines hold."""
METHODS = [QuantSpec(), QuantSpec(method="q8_0"), QuantSpec(method="affine", group_size=32)]


def as_published(family):
    """The configuration with the fields alone that the family knows, as its config.json has them."""
    modules = [importlib.import_module(f"mlx_lm.models.{family}")]
    if family in TEXT_MODELS:
        modules.append(importlib.import_module(f"mlx_lm.models.{TEXT_MODELS[family]}"))
    else:
        modules += [sys.modules[name] for name in {_home(value) for value in vars(modules[0]).values()} if name]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    known = {field.name for kind in kinds if dataclasses.is_dataclass(kind) for field in dataclasses.fields(kind)}
    return _only({"model_type", "text_config", *known}, config(family))


def _home(value):
    """The module of mlx-lm that something comes from, if it does."""
    name = value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", ""))
    return name if name.startswith("mlx_lm.models.") else ""


def _only(known, given):
    return {
        name: _only(known, value) if name == "text_config" and value else value
        for name, value in given.items()
        if name in known
    }


def planned(family):
    try:
        return fields.read(as_published(family), family)
    except fields.UnknownFamilyError:
        return read_here(config(family), family)


@pytest.mark.parametrize("family", [family for family in families() if family not in WITHOUT | OTHERWISE.keys()])
def test_a_plan_counts_what_the_cache_holds(family):
    with uncompiled():
        model = build(family)
        traced = [layer.shape for layer in layers.trace(model)]
        shape = planned(family)
        kept, real = (
            [layer.model_copy(update={"state_bytes": 0}) for layer in found if layer.kind not in ("none", "state")]
            for found in (shape.layers, traced)
        )
        assert kept == real
        model(text(1, 5), cache=(caches := make_cache(model)))
    for method in (both(spec) for spec in METHODS):
        held = sum(
            side.token_values * method.cost(side.codec.side, side.codec.head_dim).bits / 8
            for cache in packed_layers(caches)
            for side in cache.sides
        )
        held += 2 * sum(layer.plain_dim for layer in traced)
        assert per_token(shape, method, windows_full=False) == pytest.approx(held)


def test_families_that_keep_nothing_are_planned_all_the_same():
    with uncompiled():
        assert all(layer.kind == "state" for layer in read_here(config("mamba2"), "mamba2").layers)
        with pytest.raises(ModelError, match="keeps no keys and values"):
            layers.check(build("mamba2"), layers.trace(build("mamba2")))
