"""What is told of how busy GPUs were."""

from __future__ import annotations

import sys
import time

import pytest

from swarm.memory.records import Budget
from swarm.orchestrator.gpu_use import EVENT, GpuUse, watching

PRINTS = "print('10, 1024\\n30, 2048\\n[N/A], 7\\nno devices', flush=True); import time; time.sleep(60)"


@pytest.fixture
def campaign(store):
    return store.campaigns.create("gpu", {}, Budget(trials=1), seed=0).id


def test_the_mean_of_all_looks_and_the_most_memory_are_told(store, campaign):
    with GpuUse(store, campaign, (sys.executable, "-c", PRINTS)) as use:
        deadline = time.monotonic() + 30
        while len(use.samples.busy) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    (event,) = store.events.list(campaign, kind=EVENT)
    assert event.data == {"busy_percent": 20.0, "peak_mib": 2048.0, "looks": 2}
    assert "20% busy, 2.0 GiB" in event.message


@pytest.mark.parametrize("command", [("no-such-program-here",), (sys.executable, "-c", "print('no devices')")])
def test_nothing_is_told_where_there_is_nothing_to_watch(store, campaign, command):
    with GpuUse(store, campaign, command):
        pass
    assert store.events.list(campaign, kind=EVENT) == []


@pytest.mark.parametrize(("visible", "asked"), [(None, False), ("", False), ("1", True), ("GPU-1,GPU-2", True)])
def test_only_visible_gpus_are_watched(visible, asked):
    assert (f"--id={visible}" in watching(visible)) is asked
