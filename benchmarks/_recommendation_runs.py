"""Makes what recommendations are tried on: campaigns, then the chosen configurations on windows that nobody read.

`python -m benchmarks._recommendation_runs` runs campaigns side by side, each on two cores, then trials in processes
that each hold the windows of one model. What there was time for is kept in one Parquet file.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks import recommendation
from benchmarks._frame import Tell
from benchmarks._recommendation_data import DECISIVE, FILE, FRESH, Data, Measured, Twin, of_store

from swarm.experiments import environment
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.models import registry
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec
from swarm.memory.store import Store

MODELS = ("smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b")
CORES_OF_A_CAMPAIGN = 2
TRIALS = 150
FIRST_FRESH = 4
"""Campaigns read no set of windows from this one on."""
SETS = 8
SHARE_OF_CAMPAIGNS = 0.45
"""Of the time, after which campaigns end as far as they came."""

Wanted = tuple[str, Twin, KVSpec, int]
"""A trial: what for, on which model, which configuration and set of windows."""


@dataclass(frozen=True)
class CampaignPlan:
    """One campaign: its seed, models, trials, cores, and when it has to end."""

    seed: int
    models: tuple[str, ...]
    trials: int
    cores: tuple[int, ...]
    until: float
    store: Path


def campaigns(folder: Path, models: Sequence[str], trials: int, until: float, tell: Tell) -> list[Measured]:
    """The trials of as many campaigns as there are pairs of cores, side by side."""
    cores = sorted(os.sched_getaffinity(0))
    parts = [tuple(cores[k : k + CORES_OF_A_CAMPAIGN]) for k in range(0, len(cores), CORES_OF_A_CAMPAIGN)]
    plans = [
        CampaignPlan(seed, tuple(models), trials, part, until, folder / f"seed-{seed}.db")
        for seed, part in enumerate(parts)
    ]
    running = [get_context("spawn").Process(target=_launch, args=(plan,)) for plan in plans]
    for process in running:
        process.start()
    for process in running:
        process.join()
    found: list[Measured] = []
    for plan in plans:
        if plan.store.exists():
            with Store.read(plan.store) as store:
                found += of_store(store.trials.list(), plan.seed)
    tell(f"{len({one.seed for one in found})} campaigns, {len(found)} trials that count")
    return found


def _launch(plan: CampaignPlan) -> None:
    from swarm.orchestrator.launching import launch

    os.sched_setaffinity(0, plan.cores)
    with launch(
        plan.models, plan.trials, store=plan.store, seed=plan.seed, workers=len(plan.cores),
        time_limit=max(10.0, plan.until - time.time()), llm="none",
    ) as running:  # fmt: skip
        running.result(progress=False)


def measured(wanted: Iterable[Wanted], until: float, tell: Tell) -> list[Measured]:
    """Those trials, as many as there is time for; those that share a 16-bit run one after the other in a process."""
    groups: dict[tuple[Twin, int], list[Wanted]] = defaultdict(list)
    for one in dict.fromkeys(wanted):
        groups[one[1], one[3]].append(one)
    order = sorted(groups.values(), key=lambda group: (group[0][3], -len(group)))
    found = [one for part in recommendation.side_by_side(partial(_measure, until), order) for one in part]
    tell(f"{len(found)} of {sum(map(len, groups.values()))} trials")
    return found


@cache
def _runner() -> Runner:
    return Runner(threads=1)


def _measure(until: float, group: Sequence[Wanted]) -> list[Measured]:
    found = []
    for role, twin, kv, replicate in group:
        if time.time() > until:
            break
        spec = TrialSpec(
            model=twin.model,
            model_digest=registry.describe(twin.model).digest,
            corpus_digest=_runner().corpus.digest,
            kv=kv,
            seed=replicate,
            replicate=replicate,
            edits=twin.edits,
            device=environment.device(),
        )
        try:
            result = _runner().run(spec)
        except SwarmError:
            continue
        bits, windows = result["bits_per_value"], result.arrays["window_kld"]
        found.append(Measured(role, -1, 0, twin, kv, replicate, bits, windows))
    return found


def make(models: Sequence[str], seconds: float, trials: int, file: Path, tell: Tell) -> None:
    """Campaigns, the trials that decide most for models that count as not measured, and fresh windows of all choices.

    The file holds what there is after each of the three.
    """
    began = time.time()
    until = began + seconds
    with tempfile.TemporaryDirectory() as folder:
        found = campaigns(Path(folder), models, trials, began + SHARE_OF_CAMPAIGNS * seconds, tell)
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": environment.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "git_revision": environment.git_revision(),
        "models": list(models),
        "trials": trials,
        "campaigns": len({one.seed for one in found}),
        "windows": 4 * SETS,
    }
    Data(found, about).write(file)
    cases = _asked(Data(found, about))
    decisive = {
        (DECISIVE, case.twin, one.spec.kv, one.spec.replicate): None
        for case in cases
        if case.situation == recommendation.TRANSFERRED
        for one in case.answer.decisive
    }
    tell(f"{len(cases)} questions, {len(decisive)} trials that decide, {time.time() - began:.0f} s")
    found += measured(decisive, until, tell)
    Data(found, about).write(file)
    pairs = recommendation.wanted(_asked(Data(found, about)))
    sets = range(FIRST_FRESH, FIRST_FRESH + SETS)
    tell(f"{len(pairs)} configurations on fresh windows, {time.time() - began:.0f} s")
    found += measured(((FRESH, twin, kv, replicate) for replicate in sets for twin, kv in pairs), until, tell)
    Data(found, about).write(file)


def _asked(data: Data) -> list[recommendation.Case]:
    parts = recommendation.side_by_side(partial(recommendation.cases, data), sorted(data.campaigns))
    return [case for part in parts for case in part]


def main() -> int:
    """Make the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._recommendation_runs", description=__doc__)
    parser.add_argument("--models", nargs="*", help="bundled models  [default: those of up to 0.5B that are here]")
    parser.add_argument("--seconds", type=float, default=450.0, help="time for all of it")
    parser.add_argument("--trials", type=int, default=TRIALS, help="of a campaign")
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write")
    options = parser.parse_args()
    here = [info.name for info in registry.catalogue() if info.available and info.name in MODELS]
    make(options.models or here, options.seconds, options.trials, options.out, partial(print, flush=True))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
