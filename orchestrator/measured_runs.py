"""Decode rates and memory of the store's engine trials and probes of this machine, with what a plan expects of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    from swarm.experiments.sizing.learned import MeasuredRun
    from swarm.experiments.sizing.method import KVMethod
    from swarm.experiments.sizing.shape import ModelShape
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

LOOPBACK = re.compile(r"//(127\.0\.0\.1|localhost|\[::1\])[:/]")


def measured_runs(store: Store) -> list[MeasuredRun]:
    """Every decode rate that the store knows of engines that answered on loopback, with their memory where it is known.

    Trials of models whose size is not known, and of caches that have no counterpart here, are left out.
    """
    trials = [trial for name in ("engine", "probe") for trial in store.trials.list(protocol=name, state="complete")]
    return [one for trial in trials if (one := _measured(trial)) is not None]


def _measured(trial: TrialRecord) -> MeasuredRun | None:
    from swarm.experiments.sizing import method, plan
    from swarm.experiments.sizing.learned import MeasuredRun

    rate, spec = trial.metrics.get("decode_rate"), trial.spec
    local = spec.engine is not None or LOOPBACK.search(trial.environment.device if trial.environment else "")
    if rate is None or rate.value <= 0 or not local:
        return None
    try:
        shape = _shape(spec.model)
        cache = _method(trial)
        weights, kept = plan.weights(shape), method.kv_bytes(shape, cache, spec.context)
    except SwarmError:
        return None
    held = trial.metrics.get("memory") or trial.metrics.get("memory_total")
    return MeasuredRun(
        trial=trial.id,
        model=spec.model,
        label=cache.label,
        context=spec.context,
        tokens_per_second=rate.value,
        read_bytes=weights.active_bytes + kept,
        memory_bytes=None if held is None or held.value <= 0 else round(held.value),
        known_bytes=weights.n_bytes + kept,
        overhead_estimate=plan.overhead(shape),
        measured_at=trial.finished_at,
    )


def _shape(model: str) -> ModelShape:
    """The shape of a model: of a bundled one from its file, else by name."""
    from swarm.experiments.models import registry
    from swarm.experiments.sizing import models

    file = registry.gguf(model) if model in registry.bundled() or model.endswith(".gguf") else None
    return models.find(str(file) if file is not None else model)


def _method(trial: TrialRecord) -> KVMethod:
    """The cache of an engine by its flags; 16 bit where none concerns it."""
    from swarm.experiments.deploy import engine_flags
    from swarm.experiments.sizing import method

    engine = trial.spec.engine
    return method.parse("none" if engine is None else engine_flags.stored(engine).label)
