"""What the agents added over the control arm, with an interval, also when the answer is nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from swarm.agents.analysis import statistics
from swarm.agents.analysis.pareto import LOWEST, box, hypervolume, is_search, objectives
from swarm.agents.settings import AgentSettings
from swarm.memory.front import Point
from swarm.memory.records import Arm, Effect, TrialRecord

ROUNDS = 400
MIN_TRIALS = 5
"""Trials that each arm needs on a model before they are compared."""


def gain(records: Iterable[TrialRecord], settings: AgentSettings) -> Effect | None:
    """Hypervolume of the agents' arm less that of the control arm, as a share of the feasible box.

    Both arms start from the default configurations and count the same number of first-rung quality trials: as many
    as the smaller arm has. Bootstrap over the trials, averaged over the models; None while an arm has too few.
    """
    trials = [r for r in records if is_search(r)]
    arms = [_arms(trials, model) for model in sorted({r.spec.model for r in trials})]
    usable = [(base, agents, control) for base, agents, control in arms if min(len(agents), len(control)) >= MIN_TRIALS]
    if not usable:
        return None
    reference, area = box(settings)
    draws: list[float] = []

    def once(rng: np.random.Generator) -> float:
        differences = []
        for base, agents, control in usable:
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


def _arms(trials: Sequence[TrialRecord], model: str) -> tuple[list[Point], list[Point], list[Point]]:
    """Points of the defaults, of the agents and of the control arm; failed trials are points that gain nothing."""
    points: dict[Arm, list[Point]] = {"defaults": [], "agents": [], "control": []}
    for trial in trials:
        if trial.spec.model != model or trial.state not in ("complete", "failed"):
            continue
        found = objectives(trial)
        points[trial.arm].append((float("inf"),) * 2 if found is None else (max(found[0], LOWEST), found[1]))
    return points["defaults"], points["agents"], points["control"]
