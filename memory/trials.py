"""How a trial is spread over tables, and reading trials back: by id, by any filter, ranked, and counted."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from swarm.experiments import edits, identity
from swarm.experiments.spec import Environment, Metric, TrialSpec
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import tables, text
from swarm.memory.database import Database
from swarm.memory.proposals import predicted
from swarm.memory.records import TrialRecord, TrialState
from swarm.memory.rows import matching, portions, read
from swarm.memory.tables import trials


class Trials:
    """`store.trials`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, trial_id: int) -> TrialRecord:
        """A trial by id, with its arrays.

        Raises:
            UnknownNameError: there is none.
        """
        with self._database.read() as connection:
            found = _records(connection, select(trials).where(trials.c.id == trial_id))
        if not found:
            raise UnknownNameError("trial", str(trial_id), "what `swarm trials` lists")
        return found[0]

    def list(
        self,
        campaign_id: int | None = None,
        *,
        model: str | None = None,
        protocol: str | None = None,
        state: TrialState | Iterable[TrialState] | None = None,
        after: int | None = None,
        upto: int | None = None,
        ids: Sequence[int] | None = None,
        best: str | None = None,
        limit: int | None = None,
        arrays: bool = True,
    ) -> list[TrialRecord]:
        """At most `limit` trials that pass all filters, by campaign and number.

        Numbers are above `after` and up to `upto`, inclusive. With `best` (`kld` or `bits_per_value`) they are
        completed trials, smallest first. Without `arrays` their arrays are left empty.
        """
        equal = {trials.c.campaign_id: campaign_id, trials.c.model: model, trials.c.protocol: protocol}
        query = matching(select(trials), equal)
        if state is not None:
            query = query.where(trials.c.state.in_((state,) if isinstance(state, str) else tuple(state)))
        if ids is not None:
            query = query.where(trials.c.id.in_(ids))
        if after is not None:
            query = query.where(trials.c.number > after)
        if upto is not None:
            query = query.where(trials.c.number <= upto)
        if best is None:
            query = query.order_by(trials.c.campaign_id, trials.c.number)
        elif best not in ("kld", "bits_per_value"):
            raise UsageError(f"trials are not ranked by {best!r}.", "Rank by kld or bits_per_value.")
        else:
            column = trials.c[best]
            query = query.where(trials.c.state == "complete", column.is_not(None)).order_by(column, trials.c.id)
        with self._database.read() as connection:
            return _records(connection, query.limit(limit), arrays=arrays)

    def count(self, campaign_id: int) -> dict[TrialState, int]:
        """How many trials of a campaign are in each state."""
        query = select(trials.c.state, func.count()).where(trials.c.campaign_id == campaign_id).group_by(trials.c.state)
        with self._database.read() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}


def columns(spec: TrialSpec, versions: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A specification, its identity (by the present versions), and what of it stands in columns of its own."""
    layers = spec.layers
    versions = identity.versions(spec) if versions is None else versions
    # What trials have in common that quantize the same layers in the same way, whatever the model and the protocol.
    methods = {name: number for name, number in versions.items() if not name.startswith(identity.PROTOCOL)}
    edited = edits.label(spec.edits)
    configuration = (
        f"{spec.kv.model_dump_json()}{json.dumps(methods)}{edited}{spec.engine.label if spec.engine else ''}"
    )
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
        "edits": text.name(edited),
        "device": spec.device,
        "key_method": spec.kv.key.method,
        "key_bits": spec.kv.key.bits,
        "key_label": text.name(spec.kv.key.label),
        "value_label": text.name(spec.kv.value.label),
        "value_method": spec.kv.value.method,
        "value_bits": spec.kv.value.bits,
        "configuration": text.name(spec.label),
        "configuration_id": hashlib.sha256(configuration.encode()).hexdigest()[:32],
        "first_layer": layers[0] if layers else None,
        "last_layer": layers[-1] if layers else None,
        "n_quantized": len(layers) if layers else None,
    }


def _records(connection: Connection, query: Select[Any], *, arrays: bool = True) -> list[TrialRecord]:
    """The trials that `query` (a selection from the trials table) finds, in its order."""
    rows = connection.execute(query).all()
    found: list[TrialRecord] = []
    for portion in portions(rows):
        found += _chunk(connection, portion, arrays=arrays)
    return found


def _chunk(connection: Connection, rows: Sequence[Row[Any]], *, arrays: bool) -> list[TrialRecord]:
    ids = [row.id for row in rows]
    metrics: dict[int, dict[str, Metric]] = defaultdict(dict)
    for row in connection.execute(select(tables.measurements).where(tables.measurements.c.trial_id.in_(ids))):
        metric = Metric(name=row.metric, value=row.value, unit=row.unit, n=row.n, stderr=row.stderr)
        metrics[row.trial_id][row.metric] = metric
    series: dict[int, dict[str, tuple[float, ...]]] = defaultdict(dict)
    if arrays:
        for row in connection.execute(select(tables.arrays).where(tables.arrays.c.trial_id.in_(ids))):
            series[row.trial_id][row.name] = tuple(float("nan") if x is None else float(x) for x in row.series)
    proposed = {
        row.trial_id: row
        for row in connection.execute(select(tables.proposals).where(tables.proposals.c.trial_id.in_(ids)))
    }
    parents: dict[int, list[int]] = defaultdict(list)
    by_proposal = {row.id: row.trial_id for row in proposed.values()}
    for row in connection.execute(
        select(tables.proposal_parents).where(tables.proposal_parents.c.proposal_id.in_(list(by_proposal)))
    ):
        parents[by_proposal[row.proposal_id]].append(row.finding_id)
    of_trials = connection.execute(select(tables.predictions).where(tables.predictions.c.trial_id.in_(ids)))
    predictions_of = {row.trial_id: row for row in of_trials}
    places = {row.environment_id for row in rows if row.environment_id is not None}
    query = select(tables.environments).where(tables.environments.c.id.in_(places))
    where = {row.id: Environment.model_validate(row.data) for row in connection.execute(query)}
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
