"""Processes with a core each: what a dying one costs, and what agreement with llama.cpp says of it."""

import importlib
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from operator import call, truediv

import pytest

from swarm.kernels.errors import SwarmError
from swarm.orchestrator.commands import bench

agreement = importlib.import_module("benchmarks.agreement")
cores = importlib.import_module("benchmarks._cores")
CORES = sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize("many", [1, 2])
def test_a_process_that_dies_costs_its_own_task_only(many, monkeypatch):
    monkeypatch.syspath_prepend(bench.ROOT)  # for the processes
    used = CORES[:many]
    dies, fails, counts = partial(os._exit, 9), partial(truediv, 1, 0), partial(truediv, 10, 2)
    where = partial(os.sched_getaffinity, 0)
    with cores.Cores(used) as processes:
        found = dict(processes.each(call, [counts, fails, dies, where]))
        again = dict(processes.each(call, [dies, counts]))
    assert found[counts] == again[counts] == 5
    assert len(found[where]) == 1
    assert found[where] <= set(used)
    assert isinstance(found[fails], ZeroDivisionError)
    assert isinstance(found[dies], SwarmError)
    assert isinstance(again[dies], SwarmError)


def test_what_a_dead_16_bit_run_takes_with_it_is_recorded_with_the_reason(monkeypatch):
    dead = agreement.Task(agreement.OURS, "m", "f16", "both", False)
    wanted = [agreement.Task(who, "m", "q4_0", "key", True) for who in (agreement.OURS, agreement.THEIRS)]

    def kept(task, folder, short):
        if task == dead:
            raise SwarmError("its process died.", "See above.")

    def run(task, folder, short):
        return {"who": task.who}

    class Here(cores.Cores):
        """Steps run in this process: what is given to a process must be importable, and these are not."""

        def _pool(self, core):
            return ThreadPoolExecutor(1)

    monkeypatch.setattr(agreement, "Cores", Here)
    monkeypatch.setattr(agreement, "tasks", lambda models, short: wanted)
    monkeypatch.setattr(agreement, "keep", kept)
    monkeypatch.setattr(agreement, "run", run)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    results = agreement.measure(True, lambda line: None)
    assert results["rows"] == [{"who": agreement.THEIRS}]
    first, second = results["failures"]
    assert "its process died" in first["error"]
    assert (second["kind"], second["who"]) == ("q4_0", agreement.OURS)
    assert "its process died" in second["error"]
