"""The default models themselves, converted once into the user cache: what tiny random models cannot show."""

import pytest

from swarm.experiments.models import registry
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec

MODELS = ("smollm2-135m", pytest.param("gemma3-270m", marks=pytest.mark.slow))
CONTEXT = 128


@pytest.fixture(params=MODELS)
def measure(request, runner):
    if request.param not in registry.default_models():
        pytest.skip(f"{request.param} is not installed")

    def run(kv, **fields):
        return runner.run(TrialSpec(**{"model": request.param, "context": CONTEXT, "kv": kv, **fields}))

    return run


def both(method, **fields):
    quant = QuantSpec(method=method, **fields)
    return KVSpec(key=quant, value=quant)


@pytest.mark.parametrize("rung", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_quality_orders_what_is_known_to_be_better(measure, rung):
    exact = measure(KVSpec(), rung=rung)
    assert exact["kld"] == 0
    assert 0 < exact["noise_kld"] < 1e-3
    kinds = (both("q8_0"), both("affine", bits=4, group_size=64), both("affine", bits=2, group_size=64))
    runs = [measure(kv, rung=rung) for kv in kinds]
    assert exact["noise_kld"] < runs[0]["kld"] < runs[1]["kld"] < runs[2]["kld"]
    assert runs[0]["kld"] < 0.02
    assert runs[2]["kld"] > 0.5
    assert runs[0]["same_top1"] > 0.9 > runs[2]["same_top1"]
    assert [run["bits_per_value"] for run in runs] == [8.5, 4.5, 2.5]


def test_attention_errors_follow_the_bits(measure):
    runs = [measure(both("affine", bits=bits, group_size=64), protocol="attention") for bits in (8, 4, 2)]
    for name in ("attention_kl", "g", "logit_rel_error", "output_rel_error", "key_rel_mse"):
        assert runs[0][name] < runs[1][name] < runs[2][name]


def test_the_same_trial_is_the_same_bits(measure):
    kv = both("affine", bits=4, group_size=64, rotation="hadamard")
    first, again = (measure(kv, protocol="depth", layers=(9,), seed=3) for _ in range(2))
    assert first.metrics == again.metrics
    assert first.arrays == again.arrays
    assert first.arrays["layer_hidden_rel_error"][:9] == (0.0,) * 9
