"""Learned scaling: fitted on calibration text, deterministic, kept, and worth something where channels differ."""

import numpy as np
import pytest
from emulated import MlxOperations

from swarm.experiments.measurement import learned_scaling
from swarm.experiments.measurement.attention_error import attend
from swarm.experiments.measurement.reference_run import LayerInputs
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.space.sides import SideChoices
from swarm.experiments.spec import TrialSpec
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.codec import Factors
from swarm.kernels.spec import KVSpec, QuantSpec

CONTEXT = 96


def learned(method="affine", side="both", **fields):
    quant = QuantSpec(method=method, scaling="learned", **fields)
    return KVSpec(**{name: quant for name in ("key", "value") if side in (name, "both")})


def trial(model, kv, **fields):
    return TrialSpec(**{"model": model, "context": CONTEXT, "kv": kv, **fields})


@pytest.fixture
def subject(runner, tiny_models):
    return lambda family: runner.subject(tiny_models[family])


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen2"])
@pytest.mark.parametrize("rung", [0, 1])
def test_trials_with_learned_scaling_run_and_count_their_factors(runner, tiny_models, family, rung):
    quant = QuantSpec(method="affine", bits=4, group_size=32)
    found = runner.run(trial(tiny_models[family], learned(bits=4, group_size=32), rung=rung))
    fixed = runner.run(trial(tiny_models[family], KVSpec(key=quant, value=quant), rung=rung))
    assert found["kld"] > 0
    assert found["bits_per_value"] > fixed["bits_per_value"]
    assert found["bits_per_value_limit"] == fixed["bits_per_value_limit"]


def test_only_quantized_layers_and_learned_sides_get_factors(subject, tiny_models):
    model = tiny_models["llama"]
    spec = trial(model, learned(side="key", bits=4, group_size=32), layers=(1, 3))
    found = learned_scaling.learned(spec, subject("llama"))
    assert {layer: set(sides) for layer, sides in found.items()} == {1: {"key"}, 3: {"key"}}
    assert learned_scaling.learned(trial(model, KVSpec()), subject("llama")) == {}


def test_factors_are_the_same_in_another_process_and_for_other_contexts(tmp_path, tiny_models, subject):
    kv = learned(bits=3, group_size=32)
    name = tiny_models["qwen2"]
    first = learned_scaling.learned(trial(name, kv), subject("qwen2"))
    fresh = Runner(cache_dir=tmp_path).subject(name)
    again = learned_scaling.learned(trial(name, kv, context=48, replicate=2, logit_gain=2.0), fresh)
    assert first.keys() == again.keys()
    for layer, sides in first.items():
        for side, factors in sides.items():
            assert np.array_equal(factors.channel, again[layer][side].channel)
            assert factors.clip == again[layer][side].clip


@pytest.mark.parametrize(
    ("family", "side", "kv"),
    [
        ("llama", "key", {}),
        ("gemma3_text", "value", {}),
        ("qwen2", "key", {"key_bias": "subtract"}),
    ],
)
def test_errors_of_all_candidates_at_once_on_an_accelerator_are_those_of_the_cpu(
    subject, tiny_models, family, side, kv, monkeypatch
):
    given, kv = subject(family), learned(side=side, bits=3, group_size=32).model_copy(update=kv)
    spec = learned_scaling.calibration_spec(trial(tiny_models[family], kv), given)
    rng = np.random.default_rng(0)
    run = learned_scaling.CalibrationRun.of(spec, given)
    shapes = [(layer.keys.shape[1], layer.keys.shape[-1]) for layer in run.given]

    def candidate(clip):
        factors = [Factors(np.exp(rng.normal(0, 0.3, shape)).astype(np.float32), clip) for shape in shapes]
        return {layer: {side: one} for layer, one in zip(given.info.kv_layers, factors, strict=True)}

    groups = [[candidate(1.0) for _ in range(3)], [candidate(0.9)]]
    on_cpu = run.errors(kv, 0, groups)
    assert on_cpu.shape == (4, len(shapes))
    assert (on_cpu > 0).all()
    monkeypatch.setattr("swarm.kernels.arrays.on_host", lambda: False)
    monkeypatch.setattr("swarm.kernels.backends.base.current", MlxOperations)
    there = learned_scaling.CalibrationRun.of(spec, given)
    assert there.errors(kv, 0, groups) == pytest.approx(on_cpu, rel=1e-3)


def test_calibration_reads_nothing_that_is_scored(subject, tiny_models):
    given = subject("llama")
    spec = trial(tiny_models["llama"], KVSpec())
    calibration = given.windows(spec, CONTEXT, 2, split="calibration")
    for replicate in range(3):
        scored = given.windows(spec.model_copy(update={"replicate": replicate}), CONTEXT, 8)
        assert not {row.tobytes() for row in calibration[:, 1:]} & {row.tobytes() for row in scored[:, 1:]}
    calibration_run = learned_scaling.CalibrationRun.of(learned_scaling.calibration_spec(spec, given), given)
    assert len(calibration_run.given) == given.info.n_layers


@pytest.mark.parametrize("seed", range(3))
def test_fitting_pays_where_queries_ignore_the_channels_with_outliers(seed):
    """Keys with huge channels that queries hardly look at: the case that per-channel factors are for."""
    rng = np.random.default_rng(seed)
    keys, values = rng.standard_normal((2, 1, 2, 256, 64))
    queries = rng.standard_normal((1, 4, 16, 64)).astype(np.float32)
    keys[..., ::16] *= 30
    queries[..., ::16] /= 30
    tail = rng.standard_normal((2, 1, 2, 16, 64)).astype(np.float16)
    given = LayerInputs(keys.astype(np.float16), values.astype(np.float16), *tail, queries, 0.125)
    kv = learned(side="key", bits=4, group_size=32)
    exact = attend(given, PackedKVCache())

    def error(channel):
        out = attend(given, PackedKVCache(kv, factors={"key": Factors(channel)}))
        return np.linalg.norm(out - exact) / np.linalg.norm(exact)

    found = learned_scaling.magnitudes("key", given)
    errors = [error(learned_scaling.powers(found, *exponents)) for exponents in learned_scaling.POWERS["key"]]
    assert min(errors) < errors[0] / 3


def test_the_search_offers_learned_scaling_once_per_method_and_width():
    for method in ("affine", "q4_0", "turboquant_mse"):
        specs = SideChoices("key", (64,)).specs(method)
        fitted = [spec for spec in specs if spec.scaling == "learned"]
        assert len(fitted) == len({spec.bits for spec in specs})
        assert specs[0].scaling == "fixed"


@pytest.mark.slow
def test_real_models_gain_or_keep_on_the_calibration_text(runner):
    spec = TrialSpec(model="smollm2-135m", kv=learned(side="key", bits=3, group_size=32))
    subject = runner.subject("smollm2-135m")
    fixed = TrialSpec(model="smollm2-135m", kv=KVSpec(key=QuantSpec(method="affine", bits=3, group_size=32)))
    factors = learned_scaling.learned(spec, subject)
    assert any((sides["key"].channel != 1).any() or sides["key"].clip < 1 for sides in factors.values())
    assert runner.run(spec)["kld"] < 1.2 * runner.run(fixed)["kld"]
