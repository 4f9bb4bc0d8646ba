# ruff: noqa: S608 - all parts are constants of this module
"""What the database does by itself: full text follows the findings, and a front what somebody changed by hand.

Triggers hold no data: like views they are dropped before a migration and made again after it, so they have no history.
"""

from __future__ import annotations

from sqlalchemy import Connection

from swarm.memory.tables import GROUP

_SEARCHED = "statement, key, models, author"
FULL_TEXT = {
    "sqlite": (
        f"CREATE VIRTUAL TABLE findings_fts USING fts5({_SEARCHED}, content='findings', content_rowid='id', "
        "tokenize='porter unicode61')",
    ),
    "postgresql": (
        r"""CREATE FUNCTION findings_text(statement text, key text, models jsonb, author text) RETURNS tsvector
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT to_tsvector('english'::regconfig, regexp_replace(
statement || ' ' || key || ' ' || models::text || ' ' || author, '[^[:alnum:]]+', ' ', 'g'))
$$""",
        f"CREATE INDEX findings_fts ON findings USING gin (findings_text({_SEARCHED}))",
    ),
}
"""Makes the full-text index of an empty store: FTS5 on SQLite, which triggers keep up to date, GIN on PostgreSQL."""


def true_front(where: str = "true") -> str:
    """SQL that computes the fronts from the trials themselves; `where` narrows the trials (as `t`)."""
    columns = ", ".join(f"t.{name}" for name in GROUP)
    return f"""SELECT id, {", ".join(GROUP)}, bits_per_value, kld FROM (
        SELECT t.id, {columns}, t.bits_per_value, t.kld, MIN(t.kld) OVER (
            PARTITION BY {columns} ORDER BY t.bits_per_value, t.kld, t.id
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
        FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
            AND t.logit_gain = 1.0 AND t.edits = '' AND {where}
    ) ranked WHERE best_before IS NULL OR kld < best_before"""


def _repair(row: str, value: str) -> str:
    """SQL that copies a changed objective to its trial and makes the front of the trial's group anew.

    Args:
        row: the changed measurement in the trigger, `new` or `old`.
        value: the objective's value now.
    """

    def same(alias: str) -> str:
        pairs = " AND ".join(f"{alias}.{name} = b.{name}" for name in GROUP)
        return f"EXISTS (SELECT 1 FROM trials b WHERE b.id = {row}.trial_id AND {pairs})"

    return f"""UPDATE trials SET kld = CASE {row}.metric WHEN 'kld' THEN {value} ELSE kld END,
bits_per_value = CASE {row}.metric WHEN 'bits_per_value' THEN {value} ELSE bits_per_value END
WHERE id = {row}.trial_id;
DELETE FROM front WHERE trial_id IN (SELECT a.trial_id FROM front a WHERE {same("a")});
INSERT INTO front (trial_id, {", ".join(GROUP)}, bits_per_value, kld) {true_front(same("t"))};"""


_FTS_ADD = (
    f"INSERT INTO findings_fts(rowid, {_SEARCHED}) VALUES (new.id, new.statement, new.key, new.models, new.author);"
)
_FTS_REMOVE = (
    f"INSERT INTO findings_fts(findings_fts, rowid, {_SEARCHED}) "
    "VALUES ('delete', old.id, old.statement, old.key, old.models, old.author);"
)
_FTS = {"insert": _FTS_ADD, "delete": _FTS_REMOVE, "update": _FTS_REMOVE + _FTS_ADD}
_MEASUREMENTS = {"update": ("new", "new.value"), "delete": ("old", "NULL")}


def drop(connection: Connection) -> None:
    """Remove our triggers."""
    if connection.dialect.name == "postgresql":
        for event in _MEASUREMENTS:
            connection.exec_driver_sql(f"DROP FUNCTION IF EXISTS measurements_{event} CASCADE")
        return
    for name in (*(f"measurements_{event}" for event in _MEASUREMENTS), *(f"findings_fts_{event}" for event in _FTS)):
        connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS {name}")


def create(connection: Connection) -> None:
    """Make all triggers."""
    for event, (row, value) in _MEASUREMENTS.items():
        name, repair = f"measurements_{event}", _repair(row, value)
        head = f"CREATE TRIGGER {name} AFTER {event} ON measurements"
        objective = f"{row}.metric IN ('kld', 'bits_per_value')"
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {repair} RETURN NULL; END $$"
            )
            connection.exec_driver_sql(f"{head} FOR EACH ROW WHEN ({objective}) EXECUTE FUNCTION {name}()")
        else:
            connection.exec_driver_sql(f"{head} WHEN {objective} BEGIN {repair} END")
    if connection.dialect.name == "sqlite":
        for event, change in _FTS.items():
            connection.exec_driver_sql(
                f"CREATE TRIGGER findings_fts_{event} AFTER {event} ON findings BEGIN {change} END"
            )
