from __future__ import annotations

import numpy as np
import pytest

from swarm.experiments.folding import folded
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.spec import KVSpec, QuantSpec

FAMILIES = ("llama", "qwen3", "gemma3_text", "qwen2")
CONTEXT = 48


def affine(bits: int) -> KVSpec:
    spec = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=spec, value=spec)


@pytest.fixture
def measure(runner, tiny_models):
    def run(family, kv=None, **fields):
        return runner.run(TrialSpec(model=tiny_models[family], context=CONTEXT, kv=kv or KVSpec(), **fields))

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
