"""Does the swarm find why a model quantizes worse than its twin? Planted causes, and twins that differ in nothing.

A twin is a bundled model whose weights were edited so that its 16-bit function stayed: outlier channels in the keys or
values of all, one or some layers; keys scaled as a whole, or nothing at all, which changes no error of a quantized
cache. A campaign runs over model and twin, and knows of neither which it is.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import queue
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from benchmarks import _discovery_peers, _frame, _from_tests, _planted

from swarm.agents.analysis.statistics import proportion
from swarm.agents.settings import AgentSettings
from swarm.memory.records import Finding, TrialRecord

BUDGET, CONTEXT = 150, 128
SEEDS = 84
LIMIT = 800.0
"""Seconds after which no campaign is waited for any more: what is done by then is the record."""
WEIGHTS = {"swarm": 1.0, "tpe": 0.5}
"""How many campaigns of each there are to one of the swarm's, however many there is time for."""
RECALL, FALSE = 0.9, 0.05
PEERS = ("pairs of labels", "TPE, best against default")
ARMS = ("swarm", *PEERS)
SETTINGS = AgentSettings(shares={"promotion": 0.0})
"""No trial of rung 1: it costs as much as ten others, and nothing here is asked of it."""

Task = tuple[str, int]
"""Which campaign (`swarm` or `tpe`), and its seed."""
Row = dict[str, Any]


def run(task: Task, bases: Mapping[str, Path], budget: int, context: int) -> list[Row]:
    """One campaign: what was planted, and what each arm says that was judged on its trials."""
    arm, seed = task
    start, cpu = time.perf_counter(), time.process_time()
    with _planted.planted(seed, bases) as (plant, runner, infos):
        if arm == "tpe":
            records: Sequence[TrialRecord] = _discovery_peers.tpe(runner, infos, budget, context, seed)
            said = {PEERS[1]: _discovery_peers.best_against_default(records, _planted.TWIN)}
            causes: list[Row] = []
        else:
            ran = _planted.campaign(runner, infos, budget, context, seed, SETTINGS)
            records = ran.records
            findings = [record.finding for record in ran.findings]
            differing = [f for f in findings if f.status == "confirmed" and says_that_models_differ(f)]
            said = {
                "swarm": [_planted.named(f, records) if f.models[0] == _planted.TWIN else set() for f in differing],
                PEERS[0]: _discovery_peers.pairs_of_labels(records, _planted.TWIN),
            }
            causes = [
                {"status": f.status, "key": f.key, "statement": f.statement}
                for f in findings
                if f.author == "cause" or f in differing
            ]
    about = {
        "seed": seed,
        "base": plant.base,
        "kind": plant.kind,
        "planted": _planted.label(plant),
        "factor": plant.factor,
        "harm": _discovery_peers.harm(records, _planted.TWIN),
        "failed": sum(record.state == "failed" for record in records),
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }
    wanted = (plant.part, plant.layers)
    return [
        {
            **about,
            "arm": name,
            "differences": len(found),
            "side": any({part for part, _ in one} == {plant.part} for one in found),
            "layers": any(one == {wanted} for one in found),
            "cause": name == "swarm" and any(one == {wanted} for one in found),
            "wrong": sorted({f"{part} {layers}" for one in found for part, layers in one if (part, layers) != wanted}),
            "causes": causes if name == "swarm" else [],
        }
        for name, found in said.items()
    ]


def says_that_models_differ(finding: Finding) -> bool:
    """Whether a finding is about a difference between models: that something carries over is none."""
    return finding.kind == "contrast" or (finding.kind == "cause" and len(finding.models) > 1)


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Campaigns over all cores that this process may use, one campaign a core."""
    start = time.monotonic()
    with TemporaryDirectory() as folder:
        bases = _tiny(Path(folder)) if short else _planted.bundled()
        budget, context, seeds = (6, 64, 1) if short else (BUDGET, CONTEXT, SEEDS)
        tasks = in_turns(range(seeds))
        if short:
            rows = [row for task in tasks for row in run(task, bases, budget, context)]
        else:
            rows = _spread(tasks, bases, (budget, context), start + LIMIT, tell)
    return {"budget": budget, "context": context, "rows": rows}


def in_turns(seeds: Iterable[int]) -> list[Task]:
    """Campaigns in the order in which they begin: twins with a cause and without in turns, arms by their weights."""
    places: dict[Task, float] = {}
    for arm, weight in WEIGHTS.items():
        begun = {True: 0, False: 0}
        for seed in seeds:
            is_control = _planted.kind(seed) in _planted.CONTROLS
            places[arm, seed] = (begun[is_control] + 0.5) / weight
            begun[is_control] += 1
    return sorted(places, key=lambda task: (places[task], task))


def _tiny(folder: Path) -> dict[str, Path]:
    """A small model with random weights, for the short form."""
    tiny = _from_tests.load("tiny_models")
    path = tiny.write_tiny_model(folder / "tiny", "llama")
    return {str(path): path}


def _spread(
    tasks: Sequence[Task], bases: Mapping[str, Path], size: tuple[int, int], end: float, tell: _frame.Tell
) -> list[Row]:
    """Run tasks of a size (budget and context) in a process a core, in order, until the time is up."""
    spawning = multiprocessing.get_context("spawn")
    waiting, done = spawning.Queue(), spawning.Queue()
    for task in tasks:
        waiting.put(task)
    cores = sorted(os.sched_getaffinity(0))
    workers = [
        spawning.Process(target=_work, args=(core, waiting, done, dict(bases), *size), daemon=True) for core in cores
    ]
    for worker in workers:
        worker.start()
    rows: list[Row] = []
    for _ in tasks:
        try:
            found = done.get(timeout=max(end - time.monotonic(), 0.1))
        except queue.Empty:
            break
        rows += found
        for row in found:
            tell(json.dumps(row))
    for worker in workers:
        worker.kill()
    return sorted(rows, key=lambda row: (row["seed"], ARMS.index(row["arm"])))


def _work(core: int, waiting: Any, done: Any, bases: dict[str, Path], budget: int, context: int) -> None:
    os.sched_setaffinity(0, {core})
    while True:
        done.put(run(waiting.get(), bases, budget, context))


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    rows: list[Row] = results["rows"]
    planted = [row for row in rows if row["kind"] not in _planted.CONTROLS]
    controls = [row for row in rows if row["kind"] in _planted.CONTROLS]
    arms = [arm for arm in ARMS if any(row["arm"] == arm for row in rows)]
    return "\n".join(
        (
            _frame.heading(record, "Discovery: does the swarm name what was planted"),
            (__doc__ or "").partition("\n\n")[2].strip() + "\n",
            f"Campaigns of {results['budget']} trials at a context of {results['context']} tokens, each on a core of "
            "its own, without store, Ray and rung 1; everything else is a campaign's own. Factors are drawn per "
            f"seed, evenly on the logarithmic scale: {_span(_planted.FACTORS['keys'])} in all layers, "
            f"{_span(_planted.LAYER_FACTORS)} in some. A cause counts as named when a confirmed finding says that the "
            "twin does worse because of it, with the side and exactly the layers. Peers: pairs of labels are the "
            "analysts of the first release, rebuilt and given the swarm's trials; TPE ran campaigns of its own, with "
            "as many trials. Neither can name more than sides and layers in which configurations differ.\n",
            "## Named\n",
            _frame.table(
                ("arm", "twins", "side", "side and layers", "cause, side and layers", "names something else (too)"),
                [(arm, *_shares([row for row in planted if row["arm"] == arm])) for arm in arms],
            ),
            "## By what was planted (cause, side and layers, by the swarm)\n",
            _frame.table(("planted", *_groups(planted)), _by_kind(planted)),
            "## False discoveries: campaigns in which anything is said to differ from a twin without a cause\n",
            _frame.table(("arm", "twins", "campaigns"), [(arm, *_false(controls, arm)) for arm in arms]),
            _missed(planted),
            _verdict(planted, controls),
        )
    )


def _span(limits: tuple[float, float]) -> str:
    return f"{limits[0]:g} to {limits[1]:g}"


def _share(hits: int, size: int) -> str:
    if not size:
        return ""
    low, high = proportion(hits, size)
    return f"{hits / size:.2f} [{low:.2f}, {high:.2f}]"


def _shares(rows: Sequence[Row]) -> tuple[str, ...]:
    shares = (_share(sum(bool(row[w]) for row in rows), len(rows)) for w in ("side", "layers", "cause", "wrong"))
    return str(len(rows)), *shares


def _groups(planted: Sequence[Row]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(row["base"] for row in planted))


def _by_kind(planted: Sequence[Row]) -> Iterable[tuple[str, ...]]:
    for kind in dict.fromkeys(row["kind"] for row in planted):
        of_kind = [row for row in planted if row["kind"] == kind and row["arm"] == "swarm"]
        found = ([row["cause"] for row in of_kind if row["base"] == base] for base in _groups(planted))
        yield kind, *(f"{sum(hits)} of {len(hits)}" for hits in found)


def _false(controls: Sequence[Row], arm: str) -> tuple[str, str]:
    found = [row["differences"] > 0 for row in controls if row["arm"] == arm]
    return str(len(found)), _share(sum(found), len(found))


def _missed(planted: Sequence[Row]) -> str:
    rows = [
        (row["seed"], row["base"], row["planted"], "" if row["harm"] is None else f"{np.exp(row['harm']):.2f}")
        for row in planted
        if row["arm"] == "swarm" and not row["cause"]
    ]
    if not rows:
        return "The swarm missed none.\n"
    head = "## Missed by the swarm\n\nLast column: the twin's KLD over the model's, default 4-bit cache.\n\n"
    return head + _frame.table(("seed", "model", "planted", "KLD"), rows)


def _verdict(planted: Sequence[Row], controls: Sequence[Row]) -> str:
    found = [row["cause"] for row in planted if row["arm"] == "swarm"]
    wrong = [row["differences"] > 0 for row in controls if row["arm"] == "swarm"]
    if not found or not wrong:
        return "## The goals\n\nToo few campaigns ended to tell.\n"
    recall, false = np.mean(found), np.mean(wrong)
    lines = [
        _frame.said(f"recall at least {RECALL}", recall >= RECALL, _share(sum(found), len(found))),
        _frame.said(
            f"false discoveries in at most {FALSE:.0%} of the campaigns", false <= FALSE, _share(sum(wrong), len(wrong))
        ),
    ]
    return "## The goals\n\n" + "\n".join(lines) + "\n"


BENCHMARK = _frame.Benchmark("discovery", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
