"""The documented views answer the common questions in one short query, the same on both databases."""

from __future__ import annotations

import random

import pytest
from samples import complete, measurement, proposal
from sqlalchemy import text

from swarm.memory import triggers, views
from swarm.memory.records import Prediction, Score


@pytest.mark.parametrize("name", views.VIEWS)
def test_every_view_and_its_example_run(store, run, name):
    run()
    assert len(store.query(f"SELECT * FROM {name}").columns) > 5
    store.query(views.VIEWS[name].example)


def brute_front(points):
    return {
        number
        for number, (bits, kld) in points.items()
        if not any(
            other != number and b <= bits and k <= kld and ((b, k) != (bits, kld) or other < number)
            for other, (b, k) in points.items()
        )
    }


@pytest.mark.parametrize("seed", range(4))
def test_front_is_the_pareto_front_whatever_the_order(store, campaign, seed):
    rng = random.Random(seed)
    trials = [store.propose(campaign.id, n, proposal(n)) for n in range(40)]
    # A coarse grid: ties in one objective and in both.
    points = {trial.id: (rng.randint(2, 8) / 2, rng.randint(0, 6) / 10) for trial in trials}
    rng.shuffle(trials)
    for trial in trials:
        bits, kld = points[trial.id]
        complete(store, store.queue.claim(trial.id, "one"), measurement(kld, bits))
    assert {row[0] for row in store.query("SELECT trial_id FROM pareto").rows} == brute_front(points)
    assert store.check() == []


def test_best_per_model_at_a_limit(store, run):
    question = (
        "SELECT model, trial_id, kld FROM best_per_model WHERE limit_from <= {0} AND limit_below > {0} ORDER BY model"
    )
    points = {}
    for model in ("alpha", "beta"):
        for seed in range(30):
            rng = random.Random(f"{model}{seed}")
            trial = run(rng.random(), rng.uniform(2, 9), model=model)
            points[trial.id] = (model, trial.metrics["bits_per_value"].value, trial.metrics["kld"].value)
    for limit in (1.0, 3.0, 4.6, 8.99, 100.0):
        expected = []
        for model in ("alpha", "beta"):
            allowed = [(kld, trial) for trial, (m, bits, kld) in points.items() if m == model and bits <= limit]
            if allowed:
                kld, trial = min(allowed)
                expected.append((model, trial, kld))
        assert store.query(question.format(limit)).rows == expected


def test_best_per_model_keeps_rungs_apart(store, run):
    best = run(0.01, 4.0)
    cheap = run(0.02, 3.0)
    full = run(0.05, 3.5, rung=1)
    question = "SELECT rung, trial_id FROM best_per_model WHERE limit_from <= {0} AND limit_below > {0} ORDER BY rung"
    assert store.query(question.format(3.2)).rows == [(0, cheap.id)]
    assert store.query(question.format(4.6)).rows == [(0, best.id), (1, full.id)]


def test_best_per_model_ignores_interventions_and_other_protocols(store, run):
    run(0.0001, 3.0, logit_gain=2.0)
    run(0.0001, 3.0, edits="keys even")
    run(0.0001, 3.0, protocol="depth", layers=(1,))
    plain = run(0.5, 4.0)
    assert store.query("SELECT trial_id FROM best_per_model").rows == [(plain.id,)]
    assert store.query("SELECT edits FROM trial_metrics WHERE edits <> ''").rows == [("keys even",)]
    assert store.check() == []


def test_changed_measurement_moves_the_front(store, run):
    good, bad = run(0.1, 4.0), run(0.2, 4.5)
    assert store.query("SELECT trial_id FROM pareto").rows == [(good.id,)]
    with store.database.write() as connection:
        connection.execute(
            text("UPDATE measurements SET value = 9 WHERE metric = 'kld' AND trial_id = :t"), {"t": good.id}
        )
    assert store.query("SELECT trial_id FROM pareto ORDER BY 1").rows == [(good.id,), (bad.id,)]
    assert store.query(f"SELECT kld FROM trial_metrics WHERE trial_id = {good.id}").rows == [(9.0,)]
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM measurements WHERE metric = 'kld' AND trial_id = :t"), {"t": good.id})
    assert store.query("SELECT trial_id FROM pareto").rows == [(bad.id,)]
    assert store.check() == []


def test_front_check_notices_a_missing_row(store, run):
    run()
    with store.database.write() as connection:
        connection.execute(text("DELETE FROM front"))
    assert any("Pareto" in line for line in store.check())
    assert "best_before" in triggers.true_front()


def test_depth_curve(store, run, infos):
    store.models.register(infos["plain"].model_copy(update={"name": "alpha"}))
    n = infos["plain"].n_layers
    for layer in range(n):
        run(0.1 + layer, 9.0, {"hidden_rel_error": 0.01}, protocol="depth", layers=(layer,))
    for layer in range(1, n):
        layers = None if layer == n - 1 else tuple(range(layer + 1))
        run(1.0 + layer, 8.0, protocol="depth", layers=layers)
    run(5.0, 8.0, protocol="depth", layers=(1, 3))
    rows = store.query("SELECT layer, kld, depth FROM depth_curve WHERE mode = 'single' ORDER BY layer").rows
    assert [row[0] for row in rows] == list(range(n))
    assert rows[-1][1:] == (0.1 + n - 1, 1.0)
    rows = store.query("SELECT layer, kld FROM depth_curve WHERE mode = 'prefix' ORDER BY layer").rows
    assert rows == [(0, 0.1)] + [(layer, 1.0 + layer) for layer in range(1, n)]


def test_layer_error(store, run):
    trial = run()
    rows = store.query("SELECT trial_id, layer, value FROM layer_error ORDER BY layer").rows
    assert rows == [(trial.id, 0, 0.1), (trial.id, 1, 0.2), (trial.id, 2, 0.4)]


def test_transfer(store, run):
    first = run(0.1, 4.5, model="alpha")
    second = run(0.3, 4.5, model="beta")
    run(0.2, 5.5, model="beta", bits=5)
    (row,) = store.query("SELECT trial_a, trial_b, ratio FROM transfer").rows
    assert row == (first.id, second.id, pytest.approx(3.0))


def test_agent_credit(store, run):
    reference = run(0.1, 4.5, proposer="tpe", arm="control")
    prediction = Prediction(metric="kld", comparator="<=", threshold=2, reference=reference.id)
    hit = run(0.05, 4.0, proposer="llm", prediction=prediction, model="beta")
    miss = run(0.5, 5.0, proposer="llm", prediction=prediction)
    run(0.6, 6.0, proposer="llm")
    store.predictions.score(hit.id, Score(verdict="confirmed"))
    store.predictions.score(miss.id, Score(verdict="refuted"))
    question = (
        "SELECT proposer, arm, trials, completed, on_front, predictions, confirmed, refuted, transfers, transfer_hits "
        "FROM agent_credit ORDER BY proposer"
    )
    assert store.query(question).rows == [
        ("llm", "agents", 3, 3, 1, 2, 1, 1, 1, 1),
        ("tpe", "control", 1, 1, 1, 0, 0, 0, 0, 0),
    ]


def test_what_another_model_taught_counts_as_a_transfer(store, run):
    prediction = Prediction(metric="kld", comparator="<=", threshold=0.8)
    for bits in (4, 5):
        run(bits=bits, model="alpha")
    anchor = run(bits=4, model="beta")
    told = prediction.model_copy(update={"reference": anchor.id})
    carried = run(bits=5, model="beta", proposer="a", prediction=told)
    untaught = run(bits=6, model="beta", proposer="b", prediction=told)
    for trial in (carried, untaught):
        store.predictions.score(trial.id, Score(verdict="confirmed", observed=0.5, low=0.4, high=0.6))
    question = "SELECT proposer, confirmed, transfers, transfer_hits FROM agent_credit WHERE proposer IN ('a', 'b')"
    assert sorted(store.query(question).rows) == [("a", 1, 1, 1), ("b", 1, 0, 0)]
    told = [event.message for event in store.events.list(kind="prediction.confirmed")]
    assert told[0] == (
        f"a predicted kld <= 0.8 times that of trial {anchor.id} for trial {carried.id}; it is 0.5 [0.4, 0.6]."
    )


def test_spend(store, campaign, run):
    run()
    store.ledger.reserve(campaign.id, "usd", 0.25, "scribe")
    question = "SELECT kind, role, cap, reserved, spent, remaining FROM spend WHERE reserved + spent > 0 ORDER BY 1, 2"
    assert store.query(question).rows == [
        ("trials", "", 1000.0, 0.0, 1.0, 999.0),
        ("trials", "tpe", None, 0.0, 1.0, None),
        ("usd", "", None, 0.25, 0.0, None),
        ("usd", "scribe", None, 0.25, 0.0, None),
        ("worker_seconds", "", None, 0.0, 0.5, None),
        ("worker_seconds", "tpe", None, 0.0, 0.5, None),
    ]


def test_trial_metrics_is_wide(store, run, add):
    run(0.1, 4.5, {"same_top1": 0.97, "kld_p99": 0.5}, bits=3, layers=(2, 3, 4))
    waiting = add()
    rows = store.query("SELECT * FROM trial_metrics ORDER BY trial_id").records()
    assert (
        rows[0]
        | {
            "model": "alpha",
            "configuration": "K affine3/g64 V affine3/g64 layers 2-4",
            "key_label": "affine3/g64",
            "key_method": "affine",
            "key_bits": 3,
            "first_layer": 2,
            "last_layer": 4,
            "n_quantized": 3,
            "kld": 0.1,
            "kld_stderr": pytest.approx(0.01),
            "bits_per_value": 4.5,
            "same_top1": 0.97,
            "kld_p99": 0.5,
            "state": "complete",
        }
        == rows[0]
    )
    assert (rows[1]["trial_id"], rows[1]["state"], rows[1]["kld"]) == (waiting.id, "waiting", None)
