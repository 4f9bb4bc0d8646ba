"""Makes what recommendations are tried on: campaigns, then the chosen configurations on windows that nobody read.

`python -m benchmarks._recommendation_runs` runs campaigns side by side, one a core, then trials in processes that each
hold the windows of one model. What there was time for is kept in one file.
"""

from __future__ import annotations

import argparse
import os
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from benchmarks import recommendation
from benchmarks._frame import Tell
from benchmarks._recommendation_data import CAMPAIGN, DECISIVE, FILE, FRESH, Data, Measured, Twin

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments import environment
from swarm.experiments.identity import fingerprint
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.models import registry
from swarm.experiments.space.search_space import Space
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec
from swarm.memory.records import TrialRecord

MODELS = ("smollm2-135m", "gemma3-270m")
TRIALS = max(recommendation.STAGES)
LAG = 4
SETTINGS = AgentSettings(shares={"attention": 0.0, "depth": 0.0, "promotion": 0.0, "cause": 0.0})
"""Every trial is one of the first rung: others say nothing of the loss that is recommended by."""
CAMPAIGNS = 6
OWN_SETS = 2
"""Sets of windows that each campaign has for itself, so that campaigns are independent of each other; what is
replicated more often reads windows of the next campaign."""
SETS = 6
"""Sets of fresh windows, which no campaign reads. The text has about 22 sets that share nothing."""
CAMPAIGNS_END = 0.65
"""Share of the time after which campaigns end as far as they came."""
UNMEASURED_ENDS = 0.4, 0.65
"""The same, and for the trials that decide, where models are asked about that count as not measured."""

Wanted = tuple[str, int, Twin, KVSpec, int]
"""A trial: what for, for which campaign, on which model, which configuration and set of windows."""


def campaign(models: Sequence[str], trials: int, until: float, seed: int) -> list[Measured]:
    """One campaign in this process, as the built-in agents run it, of trials that tell how much configurations lose."""
    infos = [registry.describe(name) for name in models]
    space = Space(infos, corpus_digest=_runner().corpus.digest, device=environment.device())
    strategy = GenerationStrategy(space, AnalysisEngine(infos, SETTINGS), seed)
    records: list[TrialRecord] = []
    found: list[Measured] = []
    while len(records) < trials and time.time() < until:
        number = len(records)
        history = History.before(number, records, lag=LAG)
        proposal = strategy.propose(number, history)
        one = _run(CAMPAIGN, seed, number, proposal.spec)
        known = one.record() if one is not None else None
        whole = {"spec": proposal.spec, "fingerprint": fingerprint(proposal.spec), "arm": proposal.arm}
        if known is None:
            records.append(_failed(number, proposal.spec))
        else:
            records.append(known.model_copy(update=whole))
        found += [] if one is None else [one]
    return found


def _failed(number: int, spec: TrialSpec) -> TrialRecord:
    return TrialRecord(
        id=number + 1, number=number, campaign_id=1, fingerprint=fingerprint(spec), spec=spec, arm="agents",
        proposer="recorded", state="failed", outcome="error",
    )  # fmt: skip


def measured(wanted: Iterable[Wanted], until: float, tell: Tell) -> list[Measured]:
    """Those trials, as many as there is time for; those that share a 16-bit run one after the other in a process."""
    groups: dict[tuple[int, Twin, int], list[Wanted]] = defaultdict(list)
    for one in dict.fromkeys(wanted):
        groups[one[1], one[2], one[4]].append(one)
    order = sorted(groups.values(), key=lambda group: (group[0][4], -len(group)))
    found = [one for part in recommendation.side_by_side(partial(_measure, until), order) for one in part]
    tell(f"{len(found)} of {sum(map(len, groups.values()))} trials")
    return found


@cache
def _runner() -> Runner:
    return Runner(threads=1)


def _measure(until: float, group: Sequence[Wanted]) -> list[Measured]:
    found = []
    for role, seed, twin, kv, replicate in group:
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
        one = _run(role, seed, 0, spec)
        found += [] if one is None else [one]
    return found


def _run(role: str, seed: int, number: int, spec: TrialSpec) -> Measured | None:
    """A trial on the campaign's own windows; None where it failed."""
    windows_set = spec.replicate + OWN_SETS * max(seed, 0)
    try:
        result = _runner().run(spec.model_copy(update={"replicate": windows_set}))
    except SwarmError:
        return None
    bits, windows = result["bits_per_value"], result.arrays["window_kld"]
    return Measured(role, seed, number, Twin(spec.model, spec.edits), spec.kv, spec.replicate, bits, windows)


def make(models: Sequence[str], seconds: float, trials: int, file: Path, tell: Tell, *, unmeasured: bool) -> None:
    """Campaigns, and fresh windows of all choices; between them what decides most for models that are not measured.

    The file holds what there is after each step.
    """
    began = time.time()
    until, ends = began + seconds, UNMEASURED_ENDS if unmeasured else (CAMPAIGNS_END, CAMPAIGNS_END)
    work = partial(campaign, models, trials, began + ends[0] * seconds)
    found = [one for part in recommendation.side_by_side(work, range(CAMPAIGNS)) for one in part]
    tell(f"{CAMPAIGNS} campaigns, {len(found)} trials, {time.time() - began:.0f} s")
    about = {
        "date": datetime.now(UTC).date().isoformat(),
        "device": environment.device_name(),
        "cores": len(os.sched_getaffinity(0)),
        "git_revision": environment.git_revision(),
        "models": list(models),
        "trials": trials,
        "campaigns": len({one.seed for one in found}),
        "windows": 4 * SETS,
        "unmeasured": unmeasured,
    }
    Data(found, about).write(file)
    cases = _asked(Data(found, about))
    decisive = {
        (DECISIVE, case.seed, case.twin, one.spec.kv, one.spec.replicate): None
        for case in cases
        if case.situation == recommendation.TRANSFERRED
        for one in case.answer.decisive
    }
    tell(f"{len(cases)} questions, {len(decisive)} trials that decide, {time.time() - began:.0f} s")
    if decisive:
        found += measured(decisive, began + ends[1] * seconds, tell)
        Data(found, about).write(file)
        cases = _asked(Data(found, about))
    pairs = recommendation.wanted(cases)
    first = OWN_SETS * CAMPAIGNS + OWN_SETS
    sets = range(first, first + SETS)
    tell(f"{len(pairs)} configurations on fresh windows, {time.time() - began:.0f} s")
    found += measured(((FRESH, -1, twin, kv, replicate) for replicate in sets for twin, kv in pairs), until, tell)
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
    parser.add_argument("--unmeasured", action="store_true", help="ask about models that were not measured as well")
    parser.add_argument("--out", type=Path, default=FILE, help="the file to write")
    options = parser.parse_args()
    here = [info.name for info in registry.catalogue() if info.available and info.name in MODELS]
    make(
        options.models or here,
        options.seconds,
        options.trials,
        options.out,
        partial(print, flush=True),
        unmeasured=options.unmeasured,
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
