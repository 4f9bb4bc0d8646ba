"""Real trials per minute, ours against what a careful user writes with mlx-lm, and against mlx-lm out of the box.

All are asked the same: how good are these configurations of the cache? Each model runs in a process of its own with one
thread, both models at a time on two cores. The careful loop measures each configuration at full fidelity (the whole
text read over the quantized cache). Ours measures each on the cheap rung (16-bit prefill, quantized decode, other
windows of the same text) and those at full fidelity that a campaign promotes, in a campaign's own turns.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _careful, _frame, _trial_page
from benchmarks._decided import Answer, Laps, Swarm, configurations, full_fidelity, plain
from benchmarks._trial_page import ACTIVATIONS, CAREFUL, FULL, OURS, OUT_OF_THE_BOX

from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec, QuantSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

CONTEXT, SHORT_CONTEXT = 512, 16
COUNT, SHORT_COUNT = 36, 2
BUDGET = 330
FEW = 4
"""Configurations for the careful loop with our activations and for ours without the cheap rung: only their rates and
numbers are compared, no rankings."""
WALL, CPU = "wall", "cpu"

Contestant = Callable[["ModelInfo", Sequence[KVSpec], int, Laps], list[Answer]]
LOOPS: dict[str, Contestant] = {
    CAREFUL: _careful.careful,
    ACTIVATIONS: _careful.careful_with_our_activations,
    FULL: full_fidelity,
    OUT_OF_THE_BOX: _careful.out_of_the_box,
}


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run all contestants one after the other, then a campaign."""
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    blas.use_openblas(1)  # what the record says of this machine; contestants have their own processes
    context, count = (SHORT_CONTEXT, SHORT_COUNT) if short else (CONTEXT, COUNT)
    names = registry.default_models()[: 1 if short else None]
    if not names:
        raise SwarmError("no bundled model is on this machine.", "Install them: `uv sync`.")
    for name in names:
        registry.ensure(name)
    infos = [registry.describe(name) for name in names]
    wanted = {info.name: configurations(info, count, seed=0) for info in infos}
    few = {name: found[: min(FEW, count)] for name, found in wanted.items()}
    packed = {info.name: _mlx_lm_has(short) for info in infos if not any(info.windows)}
    turns = [(OURS, wanted), (CAREFUL, wanted), (OURS, wanted), (ACTIVATIONS, few), (FULL, few)]
    turns = [*turns[: 2 if short else None], (OUT_OF_THE_BOX, packed)]
    models: dict[str, Any] = {name: {} for name in names}
    for contestant, asked in turns:
        for name, found in _together(contestant, asked, context).items():
            models[name].setdefault(contestant, []).append(found)
            rate = sum(found[WALL]) / len(found[WALL])
            tell(
                f"{name}, {contestant}: {len(found[WALL])} configurations, {rate:.2f} s each, "
                f"{found['ready']:.1f} s before"
            )
    return {
        "context": context,
        "models": {
            name: _trial_page.compared(found, [wanted[name].index(c) for c in packed.get(name, ())])
            for name, found in models.items()
        },
        "campaign": None if short else campaign(names, tell),
    }


def _mlx_lm_has(short: bool) -> list[KVSpec]:
    """Configurations that mlx-lm's own cache has as well."""
    kinds = [QuantSpec(method="affine", bits=bits, group_size=64, axis="token") for bits in ((4,) if short else (4, 8))]
    return [KVSpec(key=kind, value=kind) for kind in kinds]


def _together(contestant: str, asked: dict[str, list[KVSpec]], context: int) -> dict[str, Any]:
    """One contestant on all models at a time, each in a process of its own."""
    spawn = get_context("spawn")
    running = {}
    for model, wanted in asked.items():
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=contest, args=(contestant, model, wanted, context, sender))
        process.start()
        sender.close()
        running[model] = process, receiver
    found = {}
    for model, (process, receiver) in running.items():
        try:
            found[model] = receiver.recv()
        except EOFError:
            raise SwarmError(f"{contestant} ended without an answer.", "Its own message is above.") from None
        finally:
            process.join()
    return found


def contest(contestant: str, model: str, wanted: list[KVSpec], context: int, answers: Any) -> None:
    """Run a contestant on one model in this process, and send what it found and how long it took."""
    from swarm.experiments.models import registry

    info, laps = registry.describe(model), Laps()
    if contestant == OURS:
        with tempfile.TemporaryDirectory() as folder:
            swarm = Swarm(info, context, Path(folder))
            cheap, promoted = swarm.decide(wanted, laps)
        found = {
            "cheap": plain(cheap),
            "dear": {place: plain([answer])[0] for place, answer in promoted.items()},
            "order": swarm.order(wanted),
            "seconds": swarm.seconds,
        }
    else:
        found = {"answers": plain(LOOPS[contestant](info, wanted, context, laps))}
    answers.send(found | {WALL: laps.wall, CPU: laps.cpu, "ready": laps.ready_wall, "ready_cpu": laps.ready_cpu})


def campaign(models: Sequence[str], tell: _frame.Tell) -> dict[str, Any]:
    """A campaign as anybody launches it, on converted models and without captures of earlier ones."""
    from swarm.experiments import artifacts
    from swarm.memory.store import Store

    with tempfile.TemporaryDirectory() as place:
        folder, cache = Path(place), Path(place) / "cache"
        cache.mkdir()
        for part in ("models", "digests"):
            (cache / part).symlink_to(artifacts.cache_dir() / part)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("SWARM_")}
        command = [str(Path(sys.executable).with_name("swarm")), "launch", "--budget", str(BUDGET)]
        began = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, env={**kept, "SWARM_CACHE": str(cache)}, capture_output=True, text=True, check=False
        )
        wall = time.perf_counter() - began
        if done.returncode:
            raise SwarmError(f"the campaign failed: {done.stderr.strip()[-400:]}.", "Run `swarm launch` alone.")
        kinds: dict[str, list[float]] = {}
        with Store.open(folder / "swarm.db", readonly=True) as store:
            record = store.campaigns.get()
            trials = store.trials.list(record.id)
        for trial in trials:
            kinds.setdefault(f"{trial.spec.protocol}, rung {trial.spec.rung}", []).append(trial.seconds)
    complete = sum(trial.state == "complete" for trial in trials)
    tell(f"campaign: {complete} of {len(trials)} trials, {wall:.0f} s")
    return {
        "models": list(models),
        "wall": wall,
        "trials": len(trials),
        "complete": complete,
        "kinds": {kind: {"trials": len(found), "seconds": sum(found)} for kind, found in sorted(kinds.items())},
    }


BENCHMARK = _frame.Benchmark("trials", measure, _trial_page.page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
