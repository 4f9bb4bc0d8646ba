"""One search among an engine's flags, in a process of its own on chosen cores, and checks of its choices.

`python -m benchmarks._engine_arms search|check JSON` prints a line of JSON per trial.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

ENGINE = "llama.cpp"
MAX_KLD = 0.05
ANSWER_TOKENS = 128
"""Tokens of the answer in the request by whose seconds flags are compared."""
KEPT = ("decode_rate", "prefill_rate", "memory", "kld", "kld_upper", "shared_ttft", "start_seconds", "kept")
KV_FLAGS = ("cache-type-k", "cache-type-v")
SWARM = "swarm"
UNSEEN = 7
"""Replicate whose text no search reads."""

Row = dict[str, Any]


def search(arm: str, models: Sequence[str], context: int, trials: int, seed: int, seconds: float) -> Iterator[Row]:
    """The trials of a search, as they end; none begins after so many seconds."""
    begun = time.perf_counter()
    for row in ARMS[arm](models, context, trials, seed, seconds):
        yield row | {"at": time.perf_counter() - begun}
        if time.perf_counter() - begun > seconds and arm != SWARM:  # a campaign ends itself
            return


def _swarm(models: Sequence[str], context: int, trials: int, seed: int, seconds: float) -> Iterator[Row]:
    """`swarm launch --engine`: one campaign on all models."""
    import swarm
    from swarm.orchestrator.monitor.events import TrialFinished

    with tempfile.TemporaryDirectory() as folder:
        campaign = swarm.launch(
            models,
            trials,
            store=str(Path(folder) / "s.db"),
            seed=seed,
            context=context,
            engine=ENGINE,
            max_kld=MAX_KLD,
            time_limit=seconds,
        )
        for event in campaign:
            if isinstance(event, TrialFinished):
                record = event.record
                values = {name: metric.value for name, metric in record.metrics.items()}
                yield _row(record.spec, values, record.outcome) | {"proposer": record.proposer}


def _tpe(models: Sequence[str], context: int, trials: int, seed: int, _: float) -> Iterator[Row]:
    """Optuna's TPE over the same flags: seconds of a request, with the limit on divergence as a constraint."""
    return _optuna(models, context, trials, seed, kept=lambda _: True, goal=lambda row: row["request"])


def _optimus(models: Sequence[str], context: int, trials: int, seed: int, _: float) -> Iterator[Row]:
    """As llama-optimus goes about it: TPE over speed alone, for generated tokens, with keys and values in 16 bit."""

    def goal(row: Row) -> float:
        return -float(row["decode_rate"])

    return _optuna(models, context, trials, seed, kept=lambda name: name not in KV_FLAGS, goal=goal)


def _optuna(
    models: Sequence[str],
    context: int,
    trials: int,
    seed: int,
    *,
    kept: Callable[[str], bool],
    goal: Callable[[Row], float],
) -> Iterator[Row]:
    import optuna

    from swarm.experiments.engines.run import flags
    from swarm.experiments.engines.run.startable import startable
    from swarm.experiments.models import registry

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    (model,) = models
    offered = [flag for flag in startable(ENGINE).flags(registry.describe(model)) if kept(flag.name)]
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
    for number in range(trials):
        # The engine as it comes is the first trial of every search.
        if number == 0:
            study.enqueue_trial({flag.name: flag.values[0] for flag in offered})
        trial = study.ask()
        row = run(model, context, flags.suggest(trial, offered))
        if row["outcome"]:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            trial.set_constraint("kld", row["kld_upper"] - MAX_KLD)
            study.tell(trial, goal(row))
        yield row


def check(model: str, context: int, choices: Sequence[Mapping[str, Any]], rounds: int) -> Iterator[Row]:
    """Chosen flags in turns on text that no search has read."""
    for turn in range(rounds):
        for chosen in choices:
            yield run(model, context, chosen, replicate=UNSEEN) | {"turn": turn}


def run(model: str, context: int, chosen: Mapping[str, Any], replicate: int = 0) -> Row:
    """One trial in this process."""
    from swarm.experiments.engines.run.flags import EngineSpec
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.errors import SwarmError

    engine = EngineSpec(engine=ENGINE, flags=dict(chosen))
    spec = TrialSpec(model=model, protocol="engine", context=context, replicate=replicate, engine=engine)
    if not _RUNNER:
        _RUNNER.append(Runner())
    try:
        found = _RUNNER[0].run(spec)
    except SwarmError as error:
        return _row(spec, {}, str(error))
    return _row(spec, {metric.name: metric.value for metric in found.metrics}, "")


_RUNNER: list[Any] = []


def _row(spec: Any, values: Mapping[str, float], outcome: str) -> Row:
    row: Row = {
        "model": spec.model,
        "flags": dict(spec.engine.flags),
        "rung": spec.rung,
        "replicate": spec.replicate,
        "outcome": outcome,
    }
    row |= {name: values[name] for name in KEPT if name in values}
    if "decode_rate" in values:
        row["request"] = spec.context / values["prefill_rate"] + ANSWER_TOKENS / values["decode_rate"]
        row["outcome"] = ""
    return row


ARMS: Mapping[str, Callable[[Sequence[str], int, int, int, float], Iterator[Row]]] = {
    SWARM: _swarm,
    "TPE": _tpe,
    "llama-optimus's way": _optimus,
}


def main() -> None:
    """Run what `argv` says on the cores that it names."""
    asked = json.loads(sys.argv[2])
    if sys.platform == "linux":
        os.sched_setaffinity(0, asked.pop("cores"))
    rows = {"search": search, "check": check}[sys.argv[1]](**asked)
    for row in rows:
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
