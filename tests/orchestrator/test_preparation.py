"""What trials share is made once, by one worker, while others do something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from swarm.experiments.environment import environment
from swarm.experiments.protocols.simulated import instruct
from swarm.experiments.spec import Failure, Measurement, TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.orchestrator.preparation import Preparations, needs, with_preparation

LEARNED = KVSpec.parse("K affine4/g32+learned V affine4/g32")


def test_trials_share_what_reads_the_same_text_in_16_bit():
    spec = TrialSpec(model="m", kv=LEARNED.model_copy(update={"sink_tokens": 4}))
    same = {"kv": LEARNED, "seed": 3}, {"protocol": "attention"}, {"protocol": "depth"}
    other = {"rung": 1}, {"context": 64}, {"replicate": 1}, {"model": "n"}, {"logit_gain": 2.0}, {"kv": KVSpec()}
    assert {needs(spec.model_copy(update=change)) for change in same} == {needs(spec)}
    assert len({needs(spec), *(needs(spec.model_copy(update=change)) for change in other)}) == len(other) + 1
    look = spec.model_copy(update={"protocol": "attention", "device": "cuda"})
    plain = look.model_copy(update={"kv": KVSpec()})
    assert len({needs(look), needs(plain), needs(spec)}) == 3, "kernels are timed of each pair of formats"
    assert needs(look.model_copy(update={"layers": (1,)})) == needs(look)
    assert needs(instruct(0)) == ""
    assert needs(spec.model_copy(update={"rung": 9})) == ""


def test_what_is_made_ahead_is_what_a_node_lacks_and_nobody_makes():
    first, second = TrialSpec(model="m"), TrialSpec(model="m", rung=1)
    known = Preparations()
    assert (known.ahead("here", ()), known.expecting) == (None, False)
    known.expect([first, second, instruct(0)])
    assert known.expecting
    assert known.ahead("here", ()) == first
    assert known.ahead("here", {needs(first)}) == second
    known.made("here", needs(first))
    assert (known.missing("here", first), known.missing("there", first)) == ("", needs(first))
    assert (known.ahead("here", ()), known.ahead("there", ())) == (second, first)
    known.give_up(needs(second))
    assert known.ahead("here", ()) is None


def test_the_time_counts_for_the_trial_that_it_was_made_for():
    measured = Measurement(
        metrics=(), environment=environment(), seconds={"prepare": 0.5, "measure": 1.0, "total": 1.5}
    )
    assert with_preparation(measured, 0.0) is measured
    assert with_preparation(measured, 2.0).seconds == {"prepare": 2.5, "measure": 1.0, "total": 3.5}
    assert with_preparation(Failure(kind="nan", seconds=1.0), 2.0).seconds == 3.0


WORKERS = """
import json, sys
from swarm.kernels import blas
blas.use_openblas(1)
from swarm.experiments import artifacts
from swarm.experiments.protocols.simulated import instruct
from swarm.experiments.spec import TrialSpec
from swarm.orchestrator.cluster import hidden_paths
from swarm.orchestrator.pool import Pool
from swarm.orchestrator.worker import WorkerPlan

def captures():
    return sorted(path.name.partition("-")[0] for path in (artifacts.cache_dir() / "captures").glob("[!.]*"))

pool = Pool(WorkerPlan(hidden=hidden_paths()), 2, timeout=120.0)
pool.start()
while pool.up < 2:
    pool.collect(30.0)
model = sys.argv[1]
ahead = [TrialSpec(model=model, context=64, rung=1), TrialSpec(model=model, context=10**6)]
for number in range(3):
    pool.submit(number, TrialSpec(model=model, context=64, seed=number))
pool.submit(3, instruct(3))
pool.prepare_ahead(ahead)
order = []
while len(order) < 4:
    order += pool.collect(30.0)
seconds = {number: result.seconds["prepare"] for number, result in order if number < 3}
while "prefill" not in captures():
    pool.collect(1.0)
pool.submit(4, ahead[0])
pool.submit(5, ahead[1])
late = {}
while len(late) < 2:
    late |= dict(pool.collect(30.0))
pool.close()
print(json.dumps({"order": [number for number, _ in order], "seconds": seconds,
    "late": [type(late[number]).__name__ for number in (4, 5)], "captures": captures()}))
"""


@pytest.mark.cluster
def test_workers_share_out_what_is_to_be_made(tiny_models, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WORKERS, tiny_models["llama"]],
        env={**os.environ, "SWARM_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["order"][0] == 3  # needs nothing, so it does not wait for what the others share
    made, *others = sorted(found["seconds"].values(), reverse=True)
    assert made > max(others)
    assert found["late"] == ["Measurement", "Failure"]
    assert found["captures"].count("decode") == found["captures"].count("prefill") == 1
