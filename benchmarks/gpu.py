"""Whole campaigns on this machine's GPU: by workers that share it, by one, at long contexts, beside two CPU cores.

Each is a `swarm launch` of its own, on converted models and without captures of earlier ones. The first finds no
compiled kernels, the others those of the first. `--only` runs some of them. Without a GPU, the short form runs a few
trials on the CPU.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import _frame, _gpu_page

from swarm.kernels.errors import SwarmError, UsageError
from swarm.orchestrator import devices

DEFAULT = ("--budget", "330", "--seed", "5")
TWO_CORES = 2
LONG_MODELS = ("qwen2.5-coder-1.5b", "qwen2.5-coder-0.5b")
"""The first of these that is here joins the default models at long contexts, and is alone at 32K."""
CAMPAIGNS: dict[str, tuple[str, ...]] = {
    "default, nothing compiled yet": DEFAULT,
    "default": DEFAULT,
    "one worker": (*DEFAULT, "--workers", "1", "--time-limit", "60s"),
    "two CPU cores": (*DEFAULT, "--device", "cpu", "--workers", "2", "--time-limit", "60s"),
    "long contexts": ("--context", "8192", "--long", "32K", "--budget", "120", "--time-limit", "200s"),
    _gpu_page.AT_32K: ("--context", "32K", "--corpus", "code", "--budget", "12", "--time-limit", "240s"),
}
SHORT = {"short": ("--budget", "4", "--workers", "1")}
PREPARES = 1.0
"""Seconds of preparing from which a trial is one that made or first read what it shares with others."""
GRACE = 12.0
"""Seconds that a campaign gets to end in good order."""


@dataclass(frozen=True)
class Choice:
    """Which campaigns run, for how many seconds each at most, and where kernels and stores are kept after the run."""

    only: tuple[str, ...] = ()
    seconds: float | None = None
    kernels: Path | None = None
    stores: Path | None = None


def measure(short: bool, tell: _frame.Tell, choice: Choice = Choice()) -> _frame.Results:
    """Run the campaigns one after the other; one that is ended before its time counts as far as it came."""
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    blas.use_openblas(1)
    names = registry.default_models()[: 1 if short else None]
    if not names:
        raise SwarmError("no bundled model is on this machine.", "Install them: `uv sync`.")
    if not short and device() == "cpu":
        raise UsageError("there is no GPU here.", "Run it on a machine with one, or with --short.")
    larger = [info.name for info in registry.catalogue() if info.available and info.name in LONG_MODELS][-1:]
    for name in {*names, *larger} if not short else names:
        registry.ensure(name)
    wanted = SHORT if short else {name: CAMPAIGNS[name] for name in choice.only or CAMPAIGNS}
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name, arguments in wanted.items():
            models = {"long contexts": [*larger, *names], _gpu_page.AT_32K: larger or names[:1]}.get(name, names)
            given = (*arguments, "--models", ",".join(models))
            found.append(campaign(name, given, choice.kernels or Path(folder), choice.seconds, choice.stores))
            tell(_gpu_page.line(found[-1]))
    return {"campaigns": found}


def campaign(
    name: str, arguments: Sequence[str], kernels: Path, seconds: float | None = None, stores: Path | None = None
) -> dict[str, Any]:
    """A campaign as anybody launches it; on two cores where it is to have no more. What it prints goes on to ours."""
    from swarm.experiments import artifacts
    from swarm.memory.store import Store

    kernels.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        cache = Path(place) / "cache"
        cache.mkdir()
        for part in ("models", "digests"):
            (cache / part).symlink_to(artifacts.cache_dir() / part)
        (cache / "kernels").symlink_to(kernels.absolute())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        cores = sorted(os.sched_getaffinity(0))
        allowed = cores[:TWO_CORES] if name == "two CPU cores" else cores
        began, start = datetime.now(UTC), time.perf_counter()
        with subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, allowed)), *devices.PROGRAM, "launch", *arguments],
            cwd=place,
            env={**kept, "SWARM_CACHE": str(cache)},
            stdout=sys.stderr,
            start_new_session=True,  # a signal to us is ours to hand on
        ) as process:
            code = _ended(process, seconds)
        wall = time.perf_counter() - start
        if not (Path(place) / "swarm.db").exists():
            raise SwarmError(
                f"the campaign {name!r} ended with {code} before its store was there.", "See its messages."
            )
        with Store.open(Path(place) / "swarm.db", readonly=True) as store:
            if stores is not None:
                store.backup(stores / f"{name.replace(' ', '-')}.db")
            return {"name": name, "arguments": list(arguments), "wall": wall, "code": code} | _read(store, began)


def _ended(process: subprocess.Popen[bytes], seconds: float | None) -> int:
    """The exit status of a campaign; when its time is up, or ours, it is asked to end, and then made to."""
    try:
        return process.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.send_signal(signal.SIGINT)
    try:
        return process.wait(GRACE)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _read(store: Any, began: datetime) -> dict[str, Any]:
    """What a store says of its one campaign."""
    from swarm.orchestrator.gpu_use import EVENT

    record = store.campaigns.get()
    everything = store.trials.list(record.id, arrays=False)
    trials = [trial for trial in everything if trial.finished_at is not None]
    ends = sorted((trial.finished_at - began).total_seconds() for trial in trials)
    begins = [(trial.finished_at - began).total_seconds() - trial.seconds for trial in trials]
    timings = store.query("SELECT id, timings FROM trials WHERE timings IS NOT NULL", limit=10**6).records()
    seconds = {row["id"]: _document(row["timings"]) for row in timings}
    kinds: dict[tuple[str, int, int], list[dict[str, float]]] = {}
    for trial in trials:
        kind = trial.spec.protocol, trial.spec.rung, trial.spec.context
        kinds.setdefault(kind, []).append({"trial": trial.seconds, **seconds.get(trial.id, {})})
    return {
        "workers": int(record.settings["workers"]),
        "trials": len(trials),
        "proposed": len(everything),
        "failed": sum(trial.state != "complete" for trial in trials),
        "worker_seconds": sum(trial.seconds for trial in trials),
        "began": round(min(begins), 2) if begins else None,
        "ends": [round(end, 2) for end in ends],
        "ready": [round(t.seconds, 3) for t in trials if t.state == "complete" and _was_ready(seconds.get(t.id, {}))],
        "use": next((event.data for event in store.events.list(record.id, kind=EVENT)), None),
        "kinds": [
            {
                "kind": f"{protocol} {rung} at {context}",
                "n": len(found),
                "median": statistics.median(each["trial"] for each in found),
                "longest": max(each["trial"] for each in found),
                **{part: sum(each.get(part, 0.0) for each in found) for part in _gpu_page.PARTS},
            }
            for (protocol, rung, context), found in sorted(kinds.items())
        ],
        "learned": [seconds[t.id].get("fit", 0.0) for t in trials if t.id in seconds and "+learned" in t.spec.kv.label],
        "errors": sorted({f"{trial.outcome}: {trial.message[:200]}" for trial in trials if trial.state != "complete"})[
            :5
        ],
        "slowest": [
            {"trial": trial.number, "model": trial.spec.model, "kind": trial.spec.protocol, "kv": trial.spec.kv.label}
            | {"seconds": {"trial": trial.seconds, **seconds.get(trial.id, {})}}
            for trial in sorted(trials, key=lambda trial: -trial.seconds)[:8]
        ],
    }


def _was_ready(parts: dict[str, float]) -> bool:
    """Whether a trial found what it shares with others made, and did not have to read it for the first time."""
    return parts.get("prepare", 0.0) < PREPARES


def _document(value: Any) -> dict[str, float]:
    found: dict[str, float] = json.loads(value) if isinstance(value, str) else value
    return found


BENCHMARK = _frame.Benchmark("gpu", measure, _gpu_page.page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The common command line, with a choice of campaigns."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", nargs="+", choices=tuple(CAMPAIGNS), default=(), metavar="CAMPAIGN")
    parser.add_argument("--seconds", type=float, help="end a campaign after so many")
    parser.add_argument("--kernels", type=Path, metavar="FOLDER", help="keep compiled kernels there")
    parser.add_argument("--stores", type=Path, metavar="FOLDER", help="keep the campaigns' stores there")
    options, rest = parser.parse_known_args(arguments)
    choice = Choice(tuple(options.only), options.seconds, options.kernels, options.stores)
    return _frame.Benchmark("gpu", partial(measure, choice=choice), _gpu_page.page).main(rest)


if __name__ == "__main__":
    raise SystemExit(main())
