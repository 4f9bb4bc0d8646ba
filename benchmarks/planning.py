"""How well does `swarm plan` predict decode rates and memory of an engine from trials at other settings?

Real engine trials are recorded in a store: types of the cache at several contexts on bundled models. Each setting is
then left out, alone, with all of its context, and with all of its model, and predicted from the others.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks import _frame

if TYPE_CHECKING:
    from swarm.experiments.sizing.learned import MeasuredRun
    from swarm.experiments.spec import TrialSpec
    from swarm.memory.store import Store

ENGINE = "llama.cpp"
MODELS = ("smollm2-135m", "gemma3-270m")
CONTEXTS = (512, 1024, 2048)
KINDS = ("f16", "q8_0", "q4_0")
HELD_OUT: dict[str, Callable[[MeasuredRun, MeasuredRun], bool]] = {
    "setting": lambda a, b: a.trial == b.trial,
    "context": lambda a, b: a.context == b.context,
    "model": lambda a, b: a.model == b.model,
}
"""What is left out beside a run: which others are alike."""


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run the trials, shortest first, until `SWARM_BENCH_SECONDS` are over; predict each from the others."""
    from swarm.memory.store import Store
    from swarm.orchestrator.measured_runs import measured_runs

    contexts, models, kinds = ((256,), MODELS[:1], KINDS[:2]) if short else (CONTEXTS, MODELS, KINDS)
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s.db", create=True) as store:
        failures = _record(store, [_spec(m, c, k) for c, m, k in product(contexts, models, kinds)], tell)
        found = measured_runs(store)
    return {"rows": [_row(one, found) for one in found], "failures": failures}


def _spec(model: str, context: int, kind: str) -> TrialSpec:
    from swarm.experiments.engines.run.flags import EngineSpec
    from swarm.experiments.spec import TrialSpec

    flags: dict[str, int | str] = {} if kind == "f16" else {"cache-type-k": kind, "cache-type-v": kind}
    return TrialSpec(model=model, protocol="engine", context=context, engine=EngineSpec(engine=ENGINE, flags=flags))


def _record(store: Store, specs: list[TrialSpec], tell: _frame.Tell) -> list[str]:
    """Run trials one after the other into a campaign of the store; what failed."""
    from swarm.experiments.measurement.runner import Runner
    from swarm.kernels.errors import SwarmError
    from swarm.memory.records import Proposal
    from swarm.orchestrator import one_off

    deadline = time.time() + float(os.environ.get("SWARM_BENCH_SECONDS", "1e9"))
    runner, failures = Runner(), []
    with one_off.recording(store, "planning", {}, len(specs)) as campaign:
        for number, spec in enumerate(specs):
            if time.time() > deadline:
                failures.append(f"{spec.model} at {spec.context}: no time left")
                continue
            try:
                result = runner.run(spec)
            except SwarmError as error:
                failures.append(str(error))
                tell(failures[-1])
                continue
            made = one_off.record(store, campaign, number, Proposal(spec=spec, proposer="planning"), result)
            tell(f"{spec.model} at {spec.context}: {made.metrics['decode_rate'].value:.1f} tok/s")
    return failures


def _row(run: MeasuredRun, found: list[MeasuredRun]) -> dict[str, Any]:
    """A run with what is predicted of it from runs that are not alike."""
    from swarm.experiments.sizing.learned import learn, learn_memory

    predicted = {}
    for name, alike in HELD_OUT.items():
        others = [one for one in found if not alike(run, one)]
        own = [one for one in others if one.model == run.model]
        rates, memory = learn(others), learn_memory(others, own, run.overhead_estimate)
        predicted[name] = {
            "rate": rates and rates.tokens_per_second(run.read_bytes),
            "memory": memory and run.known_bytes + memory.overhead_bytes,
        }
    estimate = run.known_bytes + run.overhead_estimate
    return {**run.model_dump(mode="json"), "estimate": estimate, "predicted": predicted}


def page(record: _frame.Results) -> str:
    """Errors by what was left out, then every setting."""
    results = record["results"]
    rows = results["rows"]
    return "\n".join(
        (
            _frame.heading(record, "What a plan learns"),
            "llama.cpp's server with types of its cache at several contexts, one trial each. A setting is predicted "
            "from all others, from those at other contexts, and from those of other models. "
            f"{len(results['failures'])} trials have no result.\n",
            _frame.table(("left out", "error of the decode rate", "error of the memory"), _errors(rows)),
            "The plan's own estimate of memory, without measurements, is "
            f"{_mean([row['estimate'] / row['memory_bytes'] - 1 for row in rows])} off.\n",
            "## Settings\n",
            _frame.table(
                ("model", "cache", "context", "tok/s", "predicted", "memory", "predicted"),
                map(_setting, rows),
            ),
            "",
        )
    )


def _errors(rows: list[dict[str, Any]]) -> Iterator[tuple[str, str, str]]:
    for name in HELD_OUT:
        cells = []
        for kind, truth in (("rate", "tokens_per_second"), ("memory", "memory_bytes")):
            pairs = [(row["predicted"][name][kind], row[truth]) for row in rows]
            cells.append(_mean([guess / value - 1 for guess, value in pairs if guess]))
        yield (name, cells[0], cells[1])


def _mean(errors: list[float]) -> str:
    return f"{fmean(map(abs, errors)):.0%} (at most {max(map(abs, errors)):.0%})" if errors else "-"


def _setting(row: dict[str, Any]) -> tuple[object, ...]:
    guess = row["predicted"]["setting"]
    return (
        row["model"],
        row["label"],
        row["context"],
        f"{row['tokens_per_second']:.1f}",
        f"{guess['rate']:.1f}" if guess["rate"] else "-",
        f"{row['memory_bytes'] / 2**20:.0f} MiB",
        f"{guess['memory'] / 2**20:.0f} MiB" if guess["memory"] else "-",
    )


BENCHMARK = _frame.Benchmark("planning", measure, page, packages=("xllamacpp",))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
