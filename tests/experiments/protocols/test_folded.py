from __future__ import annotations

import numpy as np
import pytest

from swarm.experiments.protocols.folded import folded
from swarm.experiments.spec import TrialSpec
from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, QuantSpec

FAMILIES = ("llama", "qwen3", "gemma3_text", "qwen2")
CONTEXT = 48


def affine(bits: int) -> KVSpec:
    spec = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=spec, value=spec)


@pytest.fixture
def measure(runner, tiny_models):
    def run(family, kv=None, **fields):
        fields = {"context": CONTEXT, "kv": kv or KVSpec(), **fields}
        return runner.run(TrialSpec(model=tiny_models[family], **fields))

    return run


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("bits", [2, 4])
def test_folding_the_scale_changes_nothing(measure, family, bits) -> None:
    plain = measure(family, affine(bits), protocol="quality")
    other = measure(family, affine(bits), protocol="folded")
    assert other["kld"] == pytest.approx(plain["kld"], rel=1e-2)
    np.testing.assert_allclose(other.arrays["window_kld"], plain.arrays["window_kld"], rtol=2e-2)
    assert other["bits_per_value"] == plain["bits_per_value"]
    assert measure(family, protocol="folded")["kld"] < 1e-6


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
@pytest.mark.parametrize("method", [name for name in plugins.names(base.PACKAGE) if name != "none"])
def test_no_method_cares_where_the_scale_is(measure, family, method) -> None:
    """Long enough for a block of tokens: with shorter prefixes per-channel keys would still be 16 bit."""
    spec = QuantSpec(method=method, group_size=32 if 32 in base.method(method).choices.group_sizes else None)
    kv = KVSpec(key=spec, value=spec if "value" in base.method(method).choices.sides else QuantSpec())
    plain, other = (measure(family, kv, protocol=name, context=96) for name in ("quality", "folded"))
    assert plain["bits_per_value_limit"] < 16
    assert plain["kld"] > 10 * plain["noise_kld"]
    np.testing.assert_allclose(other.arrays["window_kld"], plain.arrays["window_kld"], rtol=2e-2)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_is_as_it_was_afterwards(measure, family) -> None:
    before = measure(family, affine(3))
    measure(family, affine(3), protocol="folded")
    assert measure(family, affine(3), seed=0).arrays == before.arrays


def test_models_without_a_scale_are_refused() -> None:
    class Layer:
        pass

    class Model:
        layers = (Layer(),)

    with pytest.raises(SpecError, match="no attention scale"), folded(Model()):
        pass
