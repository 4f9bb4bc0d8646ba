# ruff: noqa: S608 - all parts are constants of this module
"""The triggers that repair a Pareto front after a measurement was changed by hand, since schema 0002. Never changes."""

GROUP = ("campaign_id", "model", "protocol", "protocol_version", "rung", "context")
_COLUMNS = ", ".join(GROUP)
_RANKED = ", ".join(f"t.{name}" for name in GROUP)


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
INSERT INTO front (trial_id, {_COLUMNS}, bits_per_value, kld)
SELECT id, {_COLUMNS}, bits_per_value, kld FROM (
SELECT t.id, {_RANKED}, t.bits_per_value, t.kld, MIN(t.kld) OVER (
PARTITION BY {_RANKED} ORDER BY t.bits_per_value, t.kld, t.id
ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS best_before
FROM trials t WHERE t.state = 'complete' AND t.kld IS NOT NULL AND t.bits_per_value IS NOT NULL
AND t.logit_gain = 1.0 AND {same("t")}
) ranked WHERE best_before IS NULL OR kld < best_before;"""


_EVENTS = (("update", "new", "new.value"), ("delete", "old", "NULL"))
STATEMENTS = {
    "sqlite": [
        statement
        for event, row, value in _EVENTS
        for statement in (
            f"DROP TRIGGER measurements_{event}",
            f"CREATE TRIGGER measurements_{event} AFTER {event} ON measurements "
            f"WHEN {row}.metric IN ('kld', 'bits_per_value') BEGIN {_repair(row, value)} END",
        )
    ],
    "postgresql": [
        f"CREATE OR REPLACE FUNCTION measurements_{event}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        f"{_repair(row, value)} RETURN NULL; END $$"
        for event, row, value in _EVENTS
    ],
}
