"""Measured decode rates correct the predictions of `swarm plan`."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest
import samples
from tiny_models import write_tiny_model

from swarm.experiments.sizing.learned import MeasuredRun, learn, learn_memory
from swarm.experiments.spec import Environment
from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator.commands import schema as schemas
from swarm.orchestrator.measured_runs import measured_runs


def rates(seconds, bandwidth, sizes, noise=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        MeasuredRun(
            trial=n, model="m", label="none", context=512, read_bytes=size,
            tokens_per_second=float(np.exp(noise * rng.normal()) / (seconds + size / bandwidth)),
        )
        for n, size in enumerate(sizes)
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_constant_and_bandwidth_are_found(seed):
    sizes = [1 << 26, 1 << 27, 1 << 28, 1 << 29, 3 << 28]
    exact = learn(rates(0.004, 2e10, sizes))
    assert exact.seconds == pytest.approx(0.004, rel=1e-6)
    assert exact.bandwidth == pytest.approx(2e10, rel=1e-6)
    assert exact.error < 1e-6
    rough = learn(rates(0.004, 2e10, sizes, 0.05, seed))
    assert 0 < rough.error < 0.3
    assert rough.tokens_per_second(1 << 28) == pytest.approx(exact.tokens_per_second(1 << 28), rel=0.15)


def test_few_or_like_measurements_give_a_bandwidth_alone():
    assert learn([]) is None
    for sizes in ([1 << 28], [1 << 28, (1 << 28) + 5, (1 << 28) + 9]):
        found = learn(rates(0.0, 1e10, sizes))
        assert (found.seconds, found.bandwidth) == (0.0, pytest.approx(1e10))


def held(model, share, *, known=1 << 28, estimate=1 << 27):
    """A run of a model that held its weights and cache, and so many times the estimate."""
    return MeasuredRun(
        trial=1, model=model, label="none", context=512, read_bytes=1, tokens_per_second=1.0,
        memory_bytes=round(known + share * estimate), known_bytes=known, overhead_estimate=estimate,
    )  # fmt: skip


def test_memory_beside_weights_and_cache_is_learned_from_the_model_itself_else_from_others():
    assert learn_memory([], [], 1 << 27) is None
    assert learn_memory(rates(0.0, 1e10, [1 << 28]), [], 1 << 27) is None  # no memory was measured
    others = [held("other", share, estimate=1 << 26) for share in (0.5, 2.0, 3.0)]
    found = learn_memory(others, [], 1 << 27)
    assert (found.overhead_bytes, found.own, found.n) == (2 << 27, False, 3)
    assert found.error > 0
    own = [held("m", 4.0, known=size << 20) for size in (100, 200, 900)]
    exact = learn_memory([*others, *own], own, 1 << 27)
    assert (exact.overhead_bytes, exact.own, exact.n) == (4 << 27, True, 3)
    assert exact.error == pytest.approx(0.0, abs=1e-9)
    assert learn_memory([held("m", -0.5)], [], 1 << 27).overhead_bytes == 0  # weights that were not all read


def test_engine_trials_and_probes_of_this_machine_count(cli, tmp_path, monkeypatch):
    model = str(write_tiny_model(tmp_path / "tiny", "llama", seed=3))
    plan = ("plan", "--model", model, "--context", "512", "--kv", "q8_0")
    before = cli(*plan)
    assert before.code == 0, before.err
    assert "corrected" not in before.out
    local = "mlx_lm.server at http://127.0.0.1:80/v1"
    asked = [
        ({"protocol": "engine", "engine": {"engine": "llama_server", "flags": {"cache-type-k": "q8_0"}}}, "cpu", 40.0),
        ({"protocol": "probe", "kv": "none"}, local, 30.0),
        ({"protocol": "probe", "kv": "none", "seed": 9}, "vLLM at http://10.0.0.7:80/v1", 900.0),
        ({"protocol": "quality"}, "cpu", 7.0),
    ]
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=9), 0)
        for number, (fields, device, rate) in enumerate(asked):
            kept = {"kv": "none", **fields}
            trial = store.propose(campaign.id, number, samples.proposal(**{"seed": number, "model": model, **kept}))
            lease = store.queue.claim(trial.id, "test")
            environment = Environment(device=device, platform="Linux", python="3", versions={})
            result = samples.measurement(decode_rate=rate, **({"memory": 3e8} if "engine" in fields else {}))
            samples.complete(store, lease, result.model_copy(update={"environment": environment}))
        found = measured_runs(store)
    assert [(one.trial, one.tokens_per_second) for one in found] == [(1, 40.0), (2, 30.0)]
    assert "q8_0" in found[0].label
    assert found[0].read_bytes < found[1].read_bytes
    done = cli(*plan, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    jsonschema.validate(told, schemas.schema("plan"))
    assert told["learned"]["n"] == 2
    assert set(told["corrected"]) == {"none", "q8_0"}
    (memory,) = {one.memory_bytes - one.known_bytes for one in found if one.memory_bytes}
    assert told["overhead_bytes"] == told["learned_memory"]["overhead_bytes"] == pytest.approx(memory, rel=1e-6)
    assert "measured of this model in 1 run until 20" in cli(*plan).out
    assert "measured of this model" not in cli(*plan, "--overhead", "1").out  # who asks knows better
    monkeypatch.chdir(tmp_path)
    assert "measured of this model" in cli("plan", "--model", "tiny", *plan[3:]).out  # campaigns keep whole paths
    assert "Decode speed (tok/s) corrected by 2 rates measured until" in cli(*plan).out
    assert "corrected" not in cli(*plan, "--memory", "64").out  # another machine
