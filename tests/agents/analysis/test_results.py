from __future__ import annotations

from math import exp, log

import pytest

from swarm.agents.analysis import results
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Proposal

FOUR = KVSpec(key=QuantSpec(method="affine", bits=4), value=QuantSpec(method="affine", bits=4))
THREE = KVSpec(key=QuantSpec(method="affine", bits=3), value=QuantSpec(method="affine", bits=3))


def record(lab, kv=FOUR, number=0, **fields):
    spec = TrialSpec(model="alpha", kv=kv, **fields)
    return lab.run(number, Proposal(spec=spec, proposer="test"))


def test_seeds_and_models_share_a_configuration_and_layers_do_not() -> None:
    base = TrialSpec(model="a", kv=FOUR)
    same = TrialSpec(model="b", kv=FOUR, seed=5, replicate=2, model_digest="x", device="cuda")
    other = TrialSpec(model="a", kv=FOUR, layers=(0,))
    key = results.config_key(base)
    assert results.config_key(same) == key
    assert results.config_key(other) != key


def test_replicates_add_windows_and_seeds_are_averaged(lab) -> None:
    records = [record(lab, seed=s, replicate=r, number=n) for n, (s, r) in enumerate([(0, 0), (1, 0), (0, 1)])]
    (result,) = results.pool(records).values()
    windows = len(records[0].arrays["window_kld"])
    assert len(result.samples()) == 2 * windows
    assert len(result.samples([1])) == windows
    first = [log(r.arrays["window_kld"][0]) for r in records[:2]]
    assert result.samples()[0, 0] == pytest.approx(sum(first) / 2)
    assert result.ids == (1, 2, 3)


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_pairing_by_window_sees_what_the_spread_of_windows_hides(make_lab, seed) -> None:
    lab = make_lab(seed=seed, law=lambda spec: 0.25 if spec.kv.sink_tokens == 4 else 0.0, noise=0.02)
    better = results.pool([record(lab)])
    worse = results.pool([record(lab, FOUR.model_copy(update={"sink_tokens": 4}), 1)])
    a, b = next(iter(better.values())), next(iter(worse.values()))
    difference = results.compare(a, b)
    assert difference is not None
    low, high = difference.interval()
    assert high < 0
    assert low < -0.1
    effect = results.ratio("x", difference)
    assert effect.low == pytest.approx(exp(low))
    overlapping = a.interval[1] > b.interval[0]
    assert overlapping


def test_trials_on_different_windows_are_not_paired(lab) -> None:
    a = results.pool([record(lab)])
    b = results.pool([record(lab, THREE, 1, replicate=1)])
    assert results.compare(next(iter(a.values())), next(iter(b.values()))) is None


def test_a_metric_that_contradicts_its_windows_is_no_evidence(lab) -> None:
    honest = record(lab)
    metrics = {**honest.metrics, "kld": honest.metrics["kld"].model_copy(update={"value": 1e-6})}
    falsified = honest.model_copy(update={"metrics": metrics})
    assert results.is_consistent(honest)
    assert not results.is_consistent(falsified)
    assert results.pool([falsified]) == {}


def test_trials_without_windows_still_count(lab) -> None:
    plain = record(lab).model_copy(update={"arrays": {}})
    (result,) = results.pool([plain]).values()
    assert len(result.samples()) == 1
    exact = plain.metrics["kld"].model_copy(update={"stderr": None})
    (result,) = results.pool([plain.model_copy(update={"metrics": {"kld": exact}})]).values()
    assert result.interval == (exact.value, exact.value)
    assert result.bits is None


def test_failed_trials_and_other_metrics_are_left_out(lab) -> None:
    lost = record(lab).model_copy(update={"state": "failed", "metrics": {}, "arrays": {}})
    assert results.pool([lost]) == {}
    assert results.pool([record(lab)], metric="attention_kl") == {}
    zero = Metric(name="kld", value=0.0)
    exact = record(lab).model_copy(update={"metrics": {"kld": zero}, "arrays": {}})
    (result,) = results.pool([exact]).values()
    assert result.level == pytest.approx(log(results.FLOOR))


def test_what_release_0_1_stored_loads_and_keeps_its_key() -> None:
    """It kept the quantized layers beside the cache; keys of findings hold the hash of that form."""
    old = {"model": "a", "kv": {"key": {"method": "affine", "bits": 4}}, "layers": [3, 4]}
    spec = TrialSpec.model_validate(old)
    assert spec.layers == spec.kv.layers == (3, 4)
    assert TrialSpec.model_validate_json(spec.model_dump_json()) == spec
    assert results.config_key(spec) == "568de5e5c0"
    assert results.config_key(TrialSpec.model_validate({**old, "layers": None})) == "a69be14c8a"


def test_labels_tell_layers_and_gain() -> None:
    single = results.config_label(TrialSpec(model="a", kv=FOUR, layers=(3,)))
    band = results.config_label(TrialSpec(model="a", kv=FOUR, layers=(3, 4, 5), logit_gain=2.0))
    assert single.endswith("layer 3")
    assert band.endswith("layers 3-5 gain 2")
