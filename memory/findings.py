"""Findings with their evidence, and the search over them: FTS5 on SQLite, a GIN index on PostgreSQL."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy import text as sql

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.events import record
from swarm.memory.records import UNFINISHED, Effect, Finding, FindingRecord, FindingStatus
from swarm.memory.rows import matching, read
from swarm.memory.tables import evidence, findings, trials
from swarm.memory.types import utc_now

# The query, a term and what joins terms. Quoted and restricted to letters and digits, a term cannot be an operator.
_SEARCH = {
    "sqlite": (
        "SELECT rowid FROM findings_fts WHERE findings_fts MATCH :words ORDER BY rank LIMIT :limit",
        '"{}"*',
        " AND ",
    ),
    "postgresql": (
        """
SELECT id FROM findings WHERE findings_text(statement, key, models, author) @@ to_tsquery('english', :words)
ORDER BY ts_rank(findings_text(statement, key, models, author), to_tsquery('english', :words)) DESC, id LIMIT :limit
""",
        "'{}':*",
        " & ",
    ),
}


class Findings:
    """`store.findings`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(self, campaign_id: int, finding: Finding) -> FindingRecord:
        """Record a finding, or the new state of the finding with the same key.

        A change makes a new revision; the same content again changes nothing.

        Raises:
            UsageError: the evidence names a trial that does not exist or is not finished.
        """
        values = _columns(finding)
        with self._database.write() as connection:
            check_evidence(connection, finding.evidence)
            mine = (findings.c.campaign_id == campaign_id, findings.c.key == values["key"])
            old = connection.execute(select(findings).where(*mine).with_for_update()).one_or_none()
            if old is None:
                row = {"campaign_id": campaign_id, "revision": 1, **values}
                new = connection.execute(insert(findings).values(row).returning(findings)).one()
                _replace_evidence(connection, new.id, 1, finding.evidence)
                what = {"finding_id": new.id, "status": finding.status}
                record(connection, "finding.new", finding.statement, campaign_id=campaign_id, data=what)
                return _record(new, finding.evidence)
            known = set(_evidence(connection, [old.id])[old.id])
            if known == set(finding.evidence) and all(getattr(old, name) == value for name, value in values.items()):
                return _record(old, known)
            changed = {**values, "revision": old.revision + 1, "updated_at": utc_now()}
            change = update(findings).where(findings.c.id == old.id).values(changed).returning(findings)
            new = connection.execute(change).one()
            _replace_evidence(connection, old.id, new.revision, finding.evidence)
            if old.status != finding.status:
                what = {"finding_id": old.id, "from": old.status, "to": finding.status}
                kind = f"finding.{finding.status}"
                record(connection, kind, finding.statement, campaign_id=campaign_id, data=what)
            return _record(new, finding.evidence)

    def get(self, finding_id: int) -> FindingRecord:
        """A finding by id.

        Raises:
            UnknownNameError: there is none.
        """
        with self._database.read() as connection:
            found = _records(connection, connection.execute(select(findings).where(findings.c.id == finding_id)).all())
        if not found:
            raise UnknownNameError("finding", str(finding_id), "what `swarm findings` lists")
        return found[0]

    def search(self, words: str, campaign_id: int | None = None, *, limit: int = 50) -> list[FindingRecord]:
        """Findings that hold all the words (or words that start like them), best match first."""
        with self._database.read() as connection:
            ids = _found(connection, words, 10 * limit)
            query = matching(select(findings).where(findings.c.id.in_(ids)), {findings.c.campaign_id: campaign_id})
            rank = {identity: place for place, identity in enumerate(ids)}
            rows = sorted(connection.execute(query).all(), key=lambda row: rank[row.id])
            return _records(connection, rows[:limit])

    def list(
        self,
        campaign_id: int | None = None,
        *,
        status: FindingStatus | None = None,
        kind: str | None = None,
        limit: int | None = None,
    ) -> list[FindingRecord]:
        """Findings in order of their first appearance."""
        query = select(findings).order_by(findings.c.id).limit(limit)
        wanted = {findings.c.campaign_id: campaign_id, findings.c.status: status, findings.c.kind: kind}
        with self._database.read() as connection:
            return _records(connection, connection.execute(matching(query, wanted)).all())


def _columns(finding: Finding) -> dict[str, Any]:
    effect = finding.effect
    return {
        "key": text.name(finding.key),
        "kind": finding.kind,
        "status": finding.status,
        "statement": text.clean(finding.statement),
        "models": [text.name(model) for model in finding.models],
        "effect_name": text.name(effect.name) if effect else None,
        "effect_value": effect.value if effect else None,
        "effect_low": effect.low if effect else None,
        "effect_high": effect.high if effect else None,
        "effect_unit": text.name(effect.unit, 32) if effect else None,
        "author": text.name(finding.author, 64),
    }


def check_evidence(connection: Connection, ids: Iterable[int]) -> None:
    """Refuse evidence that names invented or unfinished trials.

    Raises:
        UsageError: with the ids.
    """
    wanted = set(ids)
    query = select(trials.c.id).where(trials.c.id.in_(wanted), trials.c.state.not_in(UNFINISHED))
    missing = wanted - set(connection.execute(query).scalars())
    if missing:
        raise UsageError(
            f"the evidence names trials that do not exist or are not finished: {sorted(missing)[:10]}.",
            "Name finished trials.",
        )


def _replace_evidence(connection: Connection, finding_id: int, revision: int, ids: Iterable[int]) -> None:
    wanted = set(ids)
    known = set(_evidence(connection, [finding_id])[finding_id])
    dropped = (evidence.c.finding_id == finding_id, evidence.c.until.is_(None), evidence.c.trial_id.in_(known - wanted))
    if known - wanted:
        connection.execute(update(evidence).where(*dropped).values(until=revision))
    rows = [{"finding_id": finding_id, "trial_id": trial, "since": revision} for trial in sorted(wanted - known)]
    if rows:
        connection.execute(insert(evidence), rows)


def _evidence(connection: Connection, ids: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    query = select(evidence).where(evidence.c.finding_id.in_(ids), evidence.c.until.is_(None))
    for row in connection.execute(query.order_by(evidence.c.trial_id)):
        found[row.finding_id].append(row.trial_id)
    return found


def _records(connection: Connection, rows: Sequence[Row[Any]]) -> list[FindingRecord]:
    known = _evidence(connection, [row.id for row in rows])
    return [_record(row, known[row.id]) for row in rows]


def _record(row: Row[Any], ids: Iterable[int]) -> FindingRecord:
    fields = ("name", "value", "low", "high", "unit")
    effect = Effect(**{name: getattr(row, f"effect_{name}") for name in fields}) if row.effect_name else None
    return read(FindingRecord, row, finding=read(Finding, row, effect=effect, evidence=tuple(sorted(set(ids)))))


def _found(connection: Connection, words: str, limit: int) -> list[int]:
    """Ids of the findings that hold all words, or words that begin so, best first."""
    terms = re.findall(r"[^\W_]+", text.clean(words, 500))[:20]
    if not terms:
        return []
    query, quoted, join = _SEARCH[connection.dialect.name]
    words = join.join(map(quoted.format, terms))
    return list(connection.execute(sql(query), {"words": words, "limit": limit}).scalars())
