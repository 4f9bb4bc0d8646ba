"""How a trial is spread over tables: the columns of a specification, and records from rows."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, select

from swarm.experiments import identity
from swarm.experiments.spec import Environment, Metric, TrialSpec
from swarm.memory import text
from swarm.memory.proposals import predicted
from swarm.memory.records import TrialRecord
from swarm.memory.rows import portions, read
from swarm.memory.tables import (
    arrays as arrays_table,
)
from swarm.memory.tables import (
    environments,
    measurements,
    predictions,
    proposal_parents,
    proposals,
)


def columns(spec: TrialSpec) -> dict[str, Any]:
    """A specification, its identity, and what of it stands in columns of its own."""
    layers = spec.layers
    versions = identity.versions(spec)
    return {
        "spec": spec.model_dump(mode="json"),
        "fingerprint": identity.fingerprint(spec, versions),
        "versions": versions,
        "protocol_version": versions[identity.PROTOCOL + spec.protocol],
        "model": text.name(spec.model),
        "protocol": text.name(spec.protocol, 64),
        "rung": spec.rung,
        "context": spec.context,
        "replicate": spec.replicate,
        "logit_gain": spec.logit_gain,
        "device": spec.device,
        "key_method": spec.kv.key.method,
        "key_bits": spec.kv.key.bits,
        "key_label": text.name(spec.kv.key.label),
        "value_label": text.name(spec.kv.value.label),
        "value_method": spec.kv.value.method,
        "value_bits": spec.kv.value.bits,
        "configuration": text.name(spec.kv.label),
        "configuration_id": configuration_id(spec, versions),
        "first_layer": layers[0] if layers else None,
        "last_layer": layers[-1] if layers else None,
        "n_quantized": len(layers) if layers else None,
    }


def configuration_id(spec: TrialSpec, versions: Mapping[str, int]) -> str:
    """What trials have in common that quantize the same layers in the same way, whatever the model and the protocol."""
    methods = {name: number for name, number in versions.items() if not name.startswith(identity.PROTOCOL)}
    return hashlib.sha256(f"{spec.kv.model_dump_json()}{json.dumps(methods)}".encode()).hexdigest()[:32]


def records(connection: Connection, query: Select[Any], *, arrays: bool = True) -> list[TrialRecord]:
    """The trials that `query` (a selection from the trials table) finds, in its order."""
    rows = connection.execute(query).all()
    found: list[TrialRecord] = []
    for portion in portions(rows):
        found += _chunk(connection, portion, arrays=arrays)
    return found


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
    of_trials = connection.execute(select(predictions).where(predictions.c.trial_id.in_(ids)))
    predictions_of = {row.trial_id: row for row in of_trials}
    where = _environments(connection, {row.environment_id for row in rows if row.environment_id is not None})
    return [
        read(
            TrialRecord,
            row,
            spec=TrialSpec.model_validate(row.spec),
            rationale=proposed[row.id].rationale if row.id in proposed else "",
            metrics=dict(sorted(metrics[row.id].items())),
            arrays=dict(sorted(series[row.id].items())),
            prediction=predicted(predictions_of[row.id]) if row.id in predictions_of else None,
            verdict=predictions_of[row.id].verdict if row.id in predictions_of else None,
            parents=tuple(sorted(parents[row.id])),
            proposal_id=proposed[row.id].id if row.id in proposed else None,
            environment=where.get(row.environment_id),
            outdated=not identity.is_present(row.versions),
            owner=row.lease_owner or "",
        )
        for row in rows
    ]


def _environments(connection: Connection, ids: set[int]) -> dict[int, Environment]:
    query = select(environments).where(environments.c.id.in_(ids))
    return {row.id: Environment.model_validate(row.data) for row in connection.execute(query)}
