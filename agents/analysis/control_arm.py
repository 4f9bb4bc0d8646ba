"""What the agents added over the control arm, with an interval, also when the answer is nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from swarm.agents.analysis import statistics
from swarm.agents.analysis.pareto import frame, hypervolume, is_search, scored
from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point
from swarm.memory.records import Arm, Effect, TrialRecord

ROUNDS = 400
"""Bootstrap samples of the difference between the arms."""
NOWHERE: Point = (float("inf"),) * 3
"""A point that gains nothing."""
MIN_TRIALS = 5
"""Trials that each arm needs on a model before they are compared."""


def gain(records: Iterable[TrialRecord], settings: AgentSettings) -> Effect | None:
    """Hypervolume of the agents' arm less that of the control arm, as a share of the feasible box.

    Both arms start from the default configurations and count the same number of first-rung quality trials: as many
    as the smaller arm has. Bootstrap over the trials, averaged over the models; None while an arm has too few.
    """
    trials = [r for r in records if is_search(r)]
    usable = []
    for model in sorted({r.spec.model for r in trials}):
        base, agents, control = _arms(trials, model, settings)
        within = frame(trials, model, settings)
        if within is not None and min(len(agents), len(control)) >= MIN_TRIALS:
            usable.append((base, agents, control, within))
    if not usable:
        return None
    draws: list[float] = []

    def once(rng: np.random.Generator) -> float:
        differences = []
        for base, agents, control, (reference, area) in usable:
            size = min(len(agents), len(control))
            volumes = [
                hypervolume([*base, *(arm[i] for i in rng.integers(len(arm), size=size))], reference)
                for arm in (agents, control)
            ]
            differences.append((volumes[0] - volumes[1]) / area)
        draws.append(float(np.mean(differences)))
        return draws[-1]

    low, high = statistics.bootstrap(once, seed=0, rounds=ROUNDS)
    return Effect(
        name="hypervolume, agents - control", value=float(np.mean(draws)), low=low, high=high, unit="share of the box"
    )


def _arms(
    trials: Sequence[TrialRecord], model: str, settings: AgentSettings
) -> tuple[list[Point], list[Point], list[Point]]:
    """Points of the defaults, of the agents and of the control arm; failed trials are points that gain nothing."""
    points: dict[Arm, list[Point]] = {"defaults": [], "agents": [], "control": []}
    for trial in trials:
        if trial.spec.model != model or trial.state not in ("complete", "failed"):
            continue
        points[trial.arm].append(scored(trial, settings) or NOWHERE)
    return points["defaults"], points["agents"], points["control"]
