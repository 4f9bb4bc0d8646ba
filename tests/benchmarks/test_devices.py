"""When two devices say the same, and what the pages of devices and of campaigns on a GPU say."""

import importlib
import os
import signal
import threading
import time

import pytest

from swarm.orchestrator.commands import bench

devices = importlib.import_module("benchmarks.devices")
pages = importlib.import_module("benchmarks._devices_page")
campaigns = importlib.import_module("benchmarks._gpu_page")
HEAD = {
    "benchmark": "x", "command": "x", "short": False, "date": "", "device": "", "cores": 1, "load_before": 0.0,
    "blas": "", "python": "", "versions": {}, "git_revision": "",
}  # fmt: skip


def answered(windows, noise=0.0, kv="K q8_0 V q8_0"):
    metrics = {"kld": sum(windows) / len(windows), "noise_kld": noise}
    return {"protocol": "quality", "kv": kv, "metrics": metrics, "windows": {"window_kld": windows}}


@pytest.mark.parametrize(
    ("windows", "noise", "inside"),
    [
        ([0.1, 0.2, 0.3, 0.4], 0.0, True),
        ([0.11, 0.18, 0.31, 0.39], 0.0, True),
        ([0.12, 0.24, 0.36, 0.49], 0.0, False),
        ([0.12, 0.24, 0.36, 0.49], 0.06, True),
    ],
)
def test_a_difference_is_inside_the_noise_by_windows_or_by_the_floor(windows, noise, inside):
    a, b = answered([0.1, 0.2, 0.3, 0.4]), answered(windows, noise)
    ratio, found = pages.verdict(a, b, "kld")
    assert ratio == pytest.approx(sum(windows))
    assert found is inside


def test_what_goes_with_the_type_is_told_from_what_stays():
    same, other = [0.1, 0.2, 0.3, 0.4], [0.12, 0.24, 0.36, 0.49]
    failed = {"protocol": "quality", "kv": "d", "error": "x"}
    runs = {
        pages.CPU: [answered(same, kv=kv) for kv in "abcde"],
        pages.CPU_16: [answered(other, kv="a"), answered(same, kv="b"), answered(same, kv="c"), failed],
        pages.GPU_16: [
            answered(other, kv="a"),
            answered(other, kv="b"),
            answered(same, kv="c"),
            answered(other, kv="d"),
        ],
        pages.GPU_32: [answered(same, kv="a")],
    }
    rows = dict(pages.answers(runs, "quality"))
    found = {kv: pages.cause(row, "kld") for kv, row in rows.items()}
    assert found == {"a": "type", "b": "device", "c": "", "d": "unknown", "e": ""}
    page = pages.page(HEAD | {"results": {"runs": list(runs), "models": {"m": runs}}})
    assert "3 of 4 differ" in page
    assert "1 of these by the type alone, 1 by the device (b), 1 not told apart" in page
    assert "failed" in page


def dies_in_16_bit(run, model, protocol, short, cache, answers):
    """In place of a run on a device: the one in 16 bit ends as by a segfault, the one in 32 bit never answers."""
    if run == pages.GPU_16:
        os.kill(os.getpid(), signal.SIGKILL)
    if run == pages.GPU_32:
        time.sleep(600)
    answers.send([answered([0.1, 0.2, 0.3, 0.4])])


def test_a_run_that_dies_and_an_interrupt_cost_nothing_of_the_others(monkeypatch):
    monkeypatch.syspath_prepend(bench.ROOT)  # for the processes
    monkeypatch.setattr(devices, "PROTOCOLS", ("quality",))
    monkeypatch.setattr(devices, "answer", dies_in_16_bit)
    monkeypatch.setattr("swarm.experiments.environment.device", lambda: "gpu")
    heard = []

    def tell(line):
        heard.append(line)
        if len(heard) == 3:  # the one in 32 bit is waited for now
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()

    results = devices.measure(True, tell)
    (found,) = results["models"].values()
    assert [len(found[run]) for run in (pages.CPU, pages.CPU_16, pages.GPU_16, pages.GPU_32)] == [1, 1, 0, 0]
    assert [one["run"] for one in results["failures"]] == [pages.GPU_16, pages.GPU_32]
    page = pages.page(HEAD | {"results": results})
    assert f"on {pages.GPU_16}: ended without an answer, exit status -9" in page
    assert f"on {pages.GPU_32}: interrupted" in page


def campaign(name, ends, wall):
    kinds = [{"kind": "quality 0 at 512", "n": 2, "median": 1.0, "longest": 2.0}]
    kinds[0] |= dict.fromkeys(campaigns.PARTS, 0.5)
    slowest = [{"trial": 0, "model": "m", "kind": "quality", "kv": "q8_0", "seconds": {"trial": 2.0}}]
    return {
        "name": name, "arguments": [], "workers": 1, "trials": len(ends), "failed": 0, "ends": ends, "wall": wall,
        "worker_seconds": 1.0, "code": 0, "use": None, "kinds": kinds, "slowest": slowest, "began": ends[0] - 1,
    }  # fmt: skip


@pytest.mark.parametrize(("step", "wall", "met"), [(0.1, 60.0, True), (0.5, 200.0, False)])
def test_goals_of_campaigns_are_what_was_found(step, wall, met):
    ours = campaign(campaigns.DEFAULT, [5 + step * n for n in range(330)], wall)
    theirs = campaign(campaigns.TWO_CORES, [30 + 1.2 * n for n in range(40)], 60.0)
    long = campaign(campaigns.AT_32K, [60.0, 64.0], 90.0) | {
        "arguments": ["--models", "large"],
        "ready": [40 * step],
    }
    page = campaigns.page(HEAD | {"results": {"campaigns": [ours, theirs, long]}})
    said = "met" if met else "not met"
    assert f"32K of large, once captured, in 5 s: {said} ({40 * step:.2f} s" in page
    assert f"in 75 s: {said}" in page
    assert f"two CPU cores: {said} ({1.2 / step:.1f})" in page
    assert "one worker" not in page
