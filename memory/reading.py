"""Builds records of trials from rows. Knows how a trial is spread over tables; knows no writing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from swarm.experiments.spec import Environment, Metric, TrialSpec
from swarm.memory.dialects import portions
from swarm.memory.records import Prediction, TrialRecord, TrialState
from swarm.memory.tables import (
    arrays as arrays_table,
)
from swarm.memory.tables import (
    environments,
    measurements,
    predictions,
    proposal_parents,
    proposals,
    trials,
)


def records(connection: Connection, query: Select[Any], *, arrays: bool = True) -> list[TrialRecord]:
    """The trials that `query` (a selection from the trials table) finds, in its order."""
    rows = connection.execute(query).all()
    found: list[TrialRecord] = []
    for portion in portions(rows):
        found += _chunk(connection, portion, arrays=arrays)
    return found


def count(connection: Connection, campaign_id: int) -> dict[TrialState, int]:
    """How many trials of a campaign are in each state."""
    query = select(trials.c.state, func.count()).where(trials.c.campaign_id == campaign_id).group_by(trials.c.state)
    return {row[0]: int(row[1]) for row in connection.execute(query)}


def _chunk(connection: Connection, rows: Sequence[Row[Any]], *, arrays: bool) -> list[TrialRecord]:
    ids = [row.id for row in rows]
    metrics: dict[int, dict[str, Metric]] = defaultdict(dict)
    for row in connection.execute(select(measurements).where(measurements.c.trial_id.in_(ids))):
        metric = Metric(name=row.metric, value=row.value, unit=row.unit, n=row.n, stderr=row.stderr)
        metrics[row.trial_id][row.metric] = metric
    series: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
    if arrays:
        for row in connection.execute(select(arrays_table).where(arrays_table.c.trial_id.in_(ids))):
            series[row.trial_id][row.name] = tuple(float("nan") if x is None else float(x) for x in row.series)
    proposed = {row.trial_id: row for row in connection.execute(select(proposals).where(proposals.c.trial_id.in_(ids)))}
    parents: dict[int, list[int]] = defaultdict(list)
    by_proposal = {row.id: row.trial_id for row in proposed.values()}
    for row in connection.execute(
        select(proposal_parents).where(proposal_parents.c.proposal_id.in_(list(by_proposal)))
    ):
        parents[by_proposal[row.proposal_id]].append(row.finding_id)
    predicted = {
        row.trial_id: row for row in connection.execute(select(predictions).where(predictions.c.trial_id.in_(ids)))
    }
    where = _environments(connection, {row.environment_id for row in rows if row.environment_id is not None})
    return [
        TrialRecord(
            id=row.id,
            number=row.number,
            campaign_id=row.campaign_id,
            fingerprint=row.fingerprint,
            spec=TrialSpec.model_validate(row.spec),
            arm=row.arm,
            proposer=row.proposer,
            rationale=proposed[row.id].rationale if row.id in proposed else "",
            state=row.state,
            outcome=row.outcome,
            metrics=dict(sorted(metrics[row.id].items())),
            arrays=dict(sorted(series[row.id].items())),
            prediction=_prediction(predicted.get(row.id)),
            verdict=predicted[row.id].verdict if row.id in predicted else None,
            parents=tuple(sorted(parents[row.id])),
            seconds=row.seconds,
            proposal_id=proposed[row.id].id if row.id in proposed else None,
            message=row.message,
            notes=row.notes,
            attempts=row.attempts,
            environment=where.get(row.environment_id),
            owner=row.lease_owner or "",
            created_at=row.created_at,
            finished_at=row.finished_at,
        )
        for row in rows
    ]


def _prediction(row: Row[Any] | None) -> Prediction | None:
    if row is None:
        return None
    return Prediction(metric=row.metric, comparator=row.comparator, threshold=row.threshold, reference=row.reference_id)


def _environments(connection: Connection, ids: set[int]) -> dict[int, Environment]:
    query = select(environments).where(environments.c.id.in_(ids))
    return {row.id: Environment.model_validate(row.data) for row in connection.execute(query)}
