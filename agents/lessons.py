"""Which registered predictions were taught by another model. Knows trials and predictions; judges none."""

from __future__ import annotations

from collections.abc import Iterable

from swarm.agents.analysis.results import Configuration
from swarm.agents.history import History
from swarm.memory.records import TrialRecord


def is_taught(record: TrialRecord, history: History) -> bool:
    """Whether a trial's prediction carries a lesson over from another model, as the view `agent_credit` counts it.

    It refers to another model's trial, or to the ratio of two configurations that had both been measured on another
    model before.
    """
    wanted_id = record.prediction.reference if record.prediction is not None else None
    reference = next((r for r in history.completed if r.id == wanted_id), None)
    if reference is None:
        return False
    if reference.spec.model != record.spec.model:
        return True
    wanted = {Configuration.of(record.spec).key, Configuration.of(reference.spec).key}
    earlier = (r for r in history.completed if r.id < record.id and r.spec.model != record.spec.model)
    return len(wanted) == 2 and any(wanted <= known for known in _by_model(earlier).values())


def _by_model(records: Iterable[TrialRecord]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.spec.model, set()).add(Configuration.of(record.spec).key)
    return found
