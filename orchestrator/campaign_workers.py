"""The workers of a campaign, as its settings ask for them: how many, what they are told, what they make ahead."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.agents.generation.nodes.long_context import usable
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.orchestrator.workload import corpus_of, device_bytes, device_of, model_names

if TYPE_CHECKING:
    from swarm.experiments.spec import TrialSpec
    from swarm.orchestrator.pool import Pool
    from swarm.orchestrator.settings import Settings
    from swarm.orchestrator.worker import WorkerPlan

EXPECTING = 150
"""Trials of a campaign from which it comes to every kind, so that what those share is made ahead."""
LOOKED_INTO = 5
"""Default configurations per model whose attention a campaign looks into before others."""
CLOSE_TIMEOUT = 1.5
"""Seconds that Ray gets to go down when a campaign ends."""


def make_pool(settings: Settings, on_ready: Callable[[], None] = lambda: None) -> Pool:
    """The workers of a campaign, not started yet."""
    from swarm.kernels import blas

    blas.use_openblas(1)  # before whatever imports MLX
    from swarm.experiments.environment import cores
    from swarm.orchestrator import machine
    from swarm.orchestrator.pool import Pool

    rehearsal = settings.rehearsal is not None
    workers, plan = settings.workers, make_plan(settings)
    if workers is None and settings.engine is not None:
        workers = 1  # an engine has the machine for itself: what is timed must not wait for another
    elif workers is None and settings.ray_address is None:
        needs = 0 if rehearsal or plan.device != "cuda" else device_bytes(settings)
        workers = cores() if rehearsal else machine.default_workers(plan.device, needs)
    return Pool(
        plan,
        workers,
        memory=0.0 if rehearsal else machine.WORKER_BYTES,
        timeout=settings.trial_timeout,
        address=settings.ray_address,
        on_ready=on_ready,
    )


def make_plan(settings: Settings) -> WorkerPlan:
    """What the workers are told."""
    from swarm.experiments.spec import KernelTiming
    from swarm.orchestrator.cluster import hidden_paths
    from swarm.orchestrator.worker import WorkerPlan

    path = Path(settings.corpus) if settings.corpus else None
    if settings.rehearsal is not None:
        return WorkerPlan(device=device_of(settings), corpus=path, hidden=hidden_paths())
    return WorkerPlan(
        device=device_of(settings),
        models=model_names(settings),
        corpus=path,
        corpus_digest=corpus_of(settings).digest,
        hidden=hidden_paths(),
        kernels=KernelTiming(contexts=settings.kernel_contexts, shape=settings.shape or ""),
    )


@contextmanager
def started(pool: Pool) -> Iterator[Pool]:
    """Bring the workers up in the background, and down again whatever happens."""
    pool.start()
    try:
        yield pool
    finally:
        pool.close(CLOSE_TIMEOUT)


def expected(defaults: Sequence[Sequence[TrialSpec]], long: int | None, protocols: Sequence[str]) -> list[TrialSpec]:
    """Trials that a long campaign comes to, per model: those first whose turn comes first.

    On full fidelity, on other text, with learned factors, at a long context, and, where kernels are timed, on the
    attention of the configurations that are looked into first.

    Args:
        defaults: what is measured first of each model, its 16-bit run before all.
        long: the long context that finalists are tried at, None for none.
        protocols: what they are tried with there.
    """
    learned = QuantSpec(method="affine", bits=4, scaling="learned")
    kinds: list[dict[str, Any]] = [{"rung": 1}, {"replicate": 1}, {"kv": KVSpec(key=learned, value=learned)}]
    if long is not None:
        kinds += [{"protocol": name, "context": usable(name, long)} for name in protocols]
    shared = [specs[0].model_copy(update=kind) for kind in kinds for specs in defaults]
    looked = [
        specs[at].model_copy(update={"protocol": "attention"})
        for at in range(1, 1 + LOOKED_INTO)
        for specs in defaults
        if at < len(specs)
    ]
    soon = 2 * len(defaults)
    return [*looked[:soon], *shared, *looked[soon:]]
