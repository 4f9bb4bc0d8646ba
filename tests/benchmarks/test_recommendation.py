"""The benchmark of recommendations on made-up campaigns with a known truth."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from swarm.experiments import edits
from swarm.experiments.space.search_space import Space

bench = importlib.import_module("benchmarks.recommendation")
data = importlib.import_module("benchmarks._recommendation_data")

MODELS = ("smollm2-135m", "gemma3-270m")
SETS = 5
SITUATIONS = bench.SITUATIONS[:3]
"""Those of campaigns."""


def loss(model: str, kv) -> float:
    """A law: four times less per bit, and one model is more sensitive."""
    return sum(4.0 ** -(spec.bits or 12) for spec in (kv.key, kv.value)) * (2.0 if model == MODELS[1] else 1.0)


def trial(role, seed, number, twin, kv, replicate):
    rng = np.random.default_rng([replicate, len(twin.model)])
    noise = np.random.default_rng([seed + 1, number, replicate]).normal(0, 0.2, 4)
    windows = loss(twin.model, kv) * np.exp(rng.normal(0, 0.3, 4) + noise)
    bits = ((kv.key.bits or 16) + (kv.value.bits or 16)) / 2
    return data.Measured(role, seed, number, twin, kv, replicate, bits, tuple(windows.tolist()))


@pytest.fixture(scope="module")
def one_limit():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(bench, "LIMITS", (5.0,))
        yield


@pytest.fixture(scope="module")
def made(one_limit):
    registry = importlib.import_module("swarm.experiments.models.registry")
    pools = {model: Space([registry.describe(model)]).defaults(registry.describe(model))[1:11] for model in MODELS}
    trials = [
        trial(data.CAMPAIGN, 0, 2 * n + (model == MODELS[1]), data.Twin(model), spec.kv, 0)
        for model, specs in pools.items()
        for n, spec in enumerate(specs)
    ]
    found = data.Data(trials, {"unmeasured": True})
    asked = [
        (case.twin, one.spec)
        for case in bench.cases(found, 0)
        if case.situation == bench.TRANSFERRED
        for one in case.answer.decisive
    ]
    trials += [trial(data.DECISIVE, 0, 0, twin, spec.kv, spec.replicate) for twin, spec in asked]
    wanted = bench.wanted(bench.cases(data.Data(trials, found.about), 0))
    fresh = [trial(data.FRESH, -1, 0, twin, kv, 4 + k) for k in range(SETS) for twin, kv in wanted]
    about = {**found.about, "models": list(MODELS), "trials": 26, "campaigns": 1, "date": "today", "device": "none"}
    return data.Data(trials + fresh, {**about, "git_revision": "abc", "windows": 4 * SETS})


@pytest.fixture(scope="module")
def cases(made, one_limit):
    return bench.cases(made, 0)


def test_every_situation_is_asked_about_and_scored(made, cases):
    rows = [bench.scored(case, made) for case in cases]
    assert all(row is not None for row in rows)
    assert {row["situation"] for row in rows} == set(SITUATIONS)
    assert all(row["regret"] >= 0 for row in rows)
    assert all(row["low"] < row["loss"] < row["high"] for row in rows)
    edited = {case.twin.name for case in cases if case.twin.edits}
    assert len(edited) == len(MODELS) * (len(data.EDITS) - 1)


def test_no_trial_on_a_model_that_counts_as_not_measured_is_read(cases):
    for case in cases:
        if case.situation == bench.TRANSFERRED:
            assert not case.answer.choice.trials
            assert case.answer.basis.startswith("0 ")


def test_a_loss_that_is_not_known_well_enough_is_left_out(made, cases):
    few = data.Data([one for one in made.trials if one.role != data.FRESH or one.replicate < 6], made.about)
    assert all(bench.scored(case, few) is None for case in cases)


def test_models_that_count_as_not_measured_are_asked_about_where_that_was_recorded(made, cases):
    asked = bench.cases(data.Data(made.trials, {**made.about, "unmeasured": False}), 0)
    assert {case.situation for case in asked} == {bench.MEASURED}
    assert len(asked) == sum(case.situation == bench.MEASURED for case in cases)


def test_the_record_is_read_as_it_was_written(made, tmp_path):
    made.write(tmp_path / "kept.json.gz")
    again = data.Data.read(tmp_path / "kept.json.gz")
    assert again.about == made.about
    for one, other in zip(again.trials, made.trials, strict=True):
        assert (one.role, one.twin, one.kv, one.bits) == (other.role, other.twin, other.kv, other.bits)
        assert one.windows == pytest.approx(other.windows, rel=1e-5)
    assert again.twins[1].edits == edits.read(data.EDITS[1])


def test_the_page_tells_coverage_and_regret_and_what_is_missed(made, cases):
    rows = [bench.scored(case, made) for case in cases]
    results = {"about": made.about, "rows": rows}
    record = {
        "benchmark": "recommendation", "command": "swarm bench recommendation", "date": "today", "device": "none",
        "cores": 1, "blas": "none", "python": "3", "load_before": 0.0, "versions": {}, "git_revision": "abc",
        "results": results,
    }  # fmt: skip
    page = bench.page(record)
    for situation in SITUATIONS:
        assert f"| {situation} |" in page
        assert f"90% intervals hold 85% to 95%: {situation}" in page
    for row in rows:
        row |= {"low": row["real"] * 2, "high": row["real"] * 3}
    assert bench.page(record).count("not met (0%)") == len(SITUATIONS)
