"""Does `swarm launch --engine` find flags of llama.cpp as fast as TPE does in as many trials, within a bound on KLD?

Every search runs on two cores of its own. What each has chosen is measured again, in turns, on text that none has
read.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks import _engine_arms, _engine_page, _frame

from swarm.kernels.errors import UsageError

MODELS = ("smollm2-135m", "gemma3-270m")
CORES = 2
CONTEXT = int(os.environ.get("ENGINES_CONTEXT", "2048"))
TRIALS = int(os.environ.get("ENGINES_TRIALS", "30"))
"""Per search and model."""
SEEDS = int(os.environ.get("ENGINES_SEEDS", "1"))
SECONDS = float(os.environ.get("ENGINES_SECONDS", "7200"))
"""For everything: searches that are not through by then are compared after as many trials as both have."""
CHECK_SECONDS = 150.0
"""For what was chosen to be measured again, and for searches to end the trials that they have begun."""
ROUNDS = 2


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run every search, then check what each has chosen after as many trials as its rival."""
    context, trials, seeds, rounds = (512, 6, 1, 1) if short else (CONTEXT, TRIALS, SEEDS, ROUNDS)
    models = MODELS[:1] if short else MODELS
    pairs: queue.Queue[list[int]] = queue.Queue()
    for pair in _pairs():
        pairs.put(pair)
    # A campaign of ours has all models, the others one each. Ours come first, as they take longest.
    wanted = [(_engine_page.OURS, models, seed) for seed in range(seeds)]
    rivals = [arm for arm in _engine_arms.ARMS if arm != _engine_page.OURS]
    wanted += [(arm, (model,), seed) for seed in range(seeds) for arm in rivals for model in models]
    at_once = pairs.qsize()
    # So many searches of one model run one after the other on a pair of cores.
    turns = max(len(models), -(-sum(len(job[1]) for job in wanted) // at_once))

    def search(job: tuple[str, Sequence[str], int]) -> dict[str, Any]:
        arm, searched, seed = job
        asked = {
            "arm": arm,
            "models": searched,
            "context": context,
            "trials": trials * len(searched),
            "seed": seed,
            "seconds": len(searched) * (SECONDS - CHECK_SECONDS) / turns,
        }
        rows = _on(pairs, "search", asked, tell)
        tell(f"{arm}, {', '.join(searched)}, seed {seed}: {len(rows)} trials")
        return {**asked, "rows": rows}

    with ThreadPoolExecutor(at_once) as pool:
        searches = list(pool.map(search, wanted))
        comparisons = [found for seed in range(seeds) for model in models for found in compared(searches, model, seed)]

        def checked(job: tuple[int, str]) -> dict[str, Any]:
            seed, model = job
            mine = [c for c in comparisons if (c["seed"], c["model"]) == (seed, model)]
            chosen: list[dict[str, Any]] = [{}]
            chosen += [c[side] for c in mine for side in ("ours", "theirs") if c[side] not in chosen]
            asked = {"model": model, "context": context, "choices": chosen, "rounds": rounds}
            return {"model": model, "seed": seed, "rows": _on(pairs, "check", asked, tell)}

        checks = list(pool.map(checked, [(seed, model) for seed in range(seeds) for model in models]))
    return {
        "context": context,
        "trials": trials,
        "searches": searches,
        "comparisons": comparisons,
        "checks": checks,
    }


def compared(searches: Sequence[dict[str, Any]], model: str, seed: int) -> Iterator[dict[str, Any]]:
    """What our search and each other one had chosen after the same number of trials."""
    mine = (s for s in searches if model in s["models"] and s["seed"] == seed)
    rows = {s["arm"]: [row for row in s["rows"] if row["model"] == model] for s in mine}
    ours = rows.pop(_engine_page.OURS)
    for arm, theirs in rows.items():
        trials = min(len(ours), len(theirs))
        chosen = [choice(name, found[:trials]) for name, found in ((_engine_page.OURS, ours), (arm, theirs))]
        if chosen[0] is not None and chosen[1] is not None:
            flags = {"ours": chosen[0]["flags"], "theirs": chosen[1]["flags"]}
            yield {"model": model, "seed": seed, "arm": arm, "trials": trials, **flags}


def _pairs() -> list[list[int]]:
    """Cores of this machine, two by two."""
    cores = sorted(os.sched_getaffinity(0)) if sys.platform == "linux" else list(range(os.cpu_count() or CORES))
    found = [cores[i : i + CORES] for i in range(0, len(cores) - CORES + 1, CORES)]
    if not found:
        raise UsageError(f"the engines need {CORES} cores, and here is one.", "Run it on another machine.")
    return found


def _on(pairs: queue.Queue[list[int]], what: str, asked: dict[str, Any], tell: _frame.Tell) -> list[dict[str, Any]]:
    """Run a process on the next free pair of cores; its rows, also when it was ended before its last one."""
    pair = pairs.get()
    try:
        command = [sys.executable, "-m", "benchmarks._engine_arms", what, json.dumps({**asked, "cores": pair})]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_frame.ROOT)
        rows = []
        kept = os.environ.get("ENGINES_KEEP")
        for line in process.stdout or ():
            rows.append(json.loads(line))
            if kept:  # what is there if the whole run is ended
                with Path(kept).open("a") as file:
                    file.write(json.dumps({"what": what, **asked, "row": rows[-1]}) + "\n")
        if process.wait():
            tell(f"{what} {asked} ended with status {process.returncode}")
        return rows
    finally:
        pairs.put(pair)


def choice(arm: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """A row of the feasible flags that are best by the search's own goal, ranked as every campaign ranks flags."""
    from swarm.agents.analysis import engine_speed

    by_flags: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if "request" in row:
            by_flags.setdefault(json.dumps(row["flags"], sort_keys=True), []).append(row)
    seconds = {
        flags: [1 / row["decode_rate"] if arm == _engine_page.OTHER else row["request"] for row in group]
        for flags, group in by_flags.items()
    }
    known = engine_speed.estimates(seconds, plain="{}")
    feasible = [f for f, group in by_flags.items() if all(row["kld_upper"] <= _engine_arms.MAX_KLD for row in group)]
    order = engine_speed.ranked({flags: known[flags] for flags in feasible})
    return by_flags[order[0]][0] if order else None


def page(record: _frame.Results) -> str:
    """The searches, and what their choices are worth."""
    return _engine_page.page(record)


BENCHMARK = _frame.Benchmark("engines", measure, page, packages=("xllamacpp",))

if __name__ == "__main__":
    sys.exit(BENCHMARK.main())
