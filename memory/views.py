# ruff: noqa: S608 - all parts are constants of this module
"""Documented SQL views for the common questions.

Views hold no data: they are dropped before a migration and made again after it, so they have no history.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import Connection, inspect

NO_LIMIT = "1e9"


class View(NamedTuple):
    """A view: what it answers, an example, and its SQL (`{series}` stands for the database's own JSON function)."""

    summary: str
    example: str
    sql: str


def _metric(name: str, column: str = "value") -> str:
    return f"(SELECT m.{column} FROM measurements m WHERE m.trial_id = t.id AND m.metric = '{name}')"


def _unit(micro: str) -> str:
    return f"CAST({micro} AS double precision) / 1e6"


_WIDE = (
    "kld_p50",
    "kld_p90",
    "kld_p99",
    "kld_max",
    "noise_kld",
    "same_top1",
    "rms_dp",
    "ln_ppl_ratio",
    "bits_per_value_limit",
    "logit_rel_error",
    "output_rel_error",
    "attention_kl",
    "g",
    "key_rel_mse",
    "value_rel_mse",
    "hidden_rel_error",
)

_TRIAL = """t.id AS trial_id, c.name AS campaign, t.number, t.model, t.protocol, t.protocol_version, t.rung, t.context,
    t.configuration, t.key_label, t.value_label"""

VIEWS: dict[str, View] = {
    "trial_metrics": View(
        "One row per trial: what was run, how it ended, and the common metrics side by side.",
        "SELECT key_label, value_label, kld, same_top1 FROM trial_metrics WHERE model = 'gemma3-270m' AND protocol = "
        "'quality' ORDER BY kld LIMIT 10",
        f"""SELECT {_TRIAL}, t.key_method, t.key_bits, t.value_method, t.value_bits, t.first_layer, t.last_layer,
    t.n_quantized, t.replicate, t.logit_gain, t.edits, t.device, t.arm, t.proposer, t.state, t.outcome, t.message,
    t.kld, {_metric("kld", "stderr")} AS kld_stderr, t.bits_per_value,
    {", ".join(f"{_metric(name)} AS {name}" for name in _WIDE)},
    t.seconds, t.attempts, t.created_at, t.finished_at, t.campaign_id
FROM trials t JOIN campaigns c ON c.id = t.campaign_id""",
    ),
    "pareto": View(
        "The Pareto front of KLD and bits/value among comparable trials (same model, protocol, rung and context).",
        "SELECT configuration, bits_per_value, kld FROM pareto WHERE model = 'smollm2-135m' AND protocol = 'quality' "
        "ORDER BY bits_per_value",
        f"""SELECT {_TRIAL}, f.bits_per_value, f.kld, {_metric("kld", "stderr")} AS kld_stderr,
    {_metric("same_top1")} AS same_top1, {_metric("bits_per_value_limit")} AS bits_per_value_limit,
    t.arm, t.proposer, t.campaign_id
FROM front f JOIN trials t ON t.id = f.trial_id JOIN campaigns c ON c.id = f.campaign_id""",
    ),
    "best_per_model": View(
        "The configuration with the smallest KLD per model and rung for any limit on bits/value: the rows whose "
        "limit_from is at most your limit and whose limit_below is above it. KLD compares within a rung only.",
        "SELECT model, rung, configuration, kld, bits_per_value FROM best_per_model WHERE limit_from <= 4.6 AND "
        "limit_below > 4.6 ORDER BY model, rung",
        f"""SELECT {_TRIAL}, s.bits_per_value, s.kld, {_metric("kld", "stderr")} AS kld_stderr,
    {_metric("same_top1")} AS same_top1, s.bits_per_value AS limit_from, s.limit_below, t.arm, t.proposer,
    t.campaign_id
FROM (
    SELECT f.trial_id, f.bits_per_value, f.kld,
        COALESCE(LEAD(f.bits_per_value) OVER (
            PARTITION BY f.campaign_id, f.model, f.context, f.rung, f.protocol_version ORDER BY f.bits_per_value),
            {NO_LIMIT}) AS limit_below
    FROM front f WHERE f.protocol = 'quality'
) s JOIN trials t ON t.id = s.trial_id JOIN campaigns c ON c.id = t.campaign_id""",
    ),
    "depth_curve": View(
        "How the error grows with depth. In mode `single` only `layer` is quantized, in mode `prefix` the layers 0 to "
        "`layer`; depth is the share of the model that lies up to it.",
        "SELECT layer, avg(kld) FROM depth_curve WHERE model = 'gemma3-270m' AND mode = 'prefix' GROUP BY layer",
        f"""SELECT d.mode, d.layer, CAST(d.layer + 1 AS double precision) / m.n_layers AS depth, {_TRIAL}, t.kld,
    {_metric("kld", "stderr")} AS kld_stderr, {_metric("hidden_rel_error")} AS hidden_rel_error, t.bits_per_value,
    t.campaign_id
FROM (
    SELECT id, 'single' AS mode, first_layer AS layer FROM trials WHERE protocol = 'depth' AND n_quantized = 1
    UNION ALL
    SELECT id, 'prefix', last_layer FROM trials
    WHERE protocol = 'depth' AND first_layer = 0 AND n_quantized = last_layer + 1
    UNION ALL
    SELECT w.id, 'prefix', n.n_layers - 1 FROM trials w JOIN models n ON n.name = w.model
    WHERE w.protocol = 'depth' AND w.first_layer IS NULL
) d JOIN trials t ON t.id = d.id JOIN campaigns c ON c.id = t.campaign_id LEFT JOIN models m ON m.name = t.model
WHERE t.state = 'complete'""",
    ),
    "layer_error": View(
        "The per-layer series of trials, one row per layer: `series` is e.g. layer_hidden_rel_error.",
        "SELECT layer, avg(value) FROM layer_error WHERE model = 'gemma3-270m' AND series = 'layer_hidden_rel_error' "
        "GROUP BY layer",
        f"""SELECT {_TRIAL}, t.campaign_id, a.name AS series, {{series}}
WHERE substr(a.name, 1, 5) = 'layer'""",
    ),
    "transfer": View(
        "The same configuration on two models: does what holds for one hold for the other?",
        "SELECT configuration, model_a, kld_a, model_b, kld_b FROM transfer WHERE protocol = 'quality' "
        "ORDER BY ratio DESC LIMIT 10",
        """SELECT c.name AS campaign, a.configuration, a.protocol, a.rung, a.context, a.replicate,
    a.model AS model_a, a.id AS trial_a, a.kld AS kld_a, a.bits_per_value AS bits_a,
    b.model AS model_b, b.id AS trial_b, b.kld AS kld_b, b.bits_per_value AS bits_b,
    CASE WHEN a.kld > 0 THEN b.kld / a.kld END AS ratio, a.campaign_id
FROM trials a JOIN trials b ON b.configuration_id = a.configuration_id AND b.model > a.model
    AND b.campaign_id = a.campaign_id AND b.protocol = a.protocol AND b.protocol_version = a.protocol_version
    AND b.rung = a.rung AND b.context = a.context AND b.replicate = a.replicate AND b.logit_gain = a.logit_gain
JOIN campaigns c ON c.id = a.campaign_id
WHERE a.state = 'complete' AND b.state = 'complete' AND a.kld IS NOT NULL AND b.kld IS NOT NULL""",
    ),
    "agent_credit": View(
        "What each proposer contributed: its trials, its places on Pareto fronts, and how its predictions fared. "
        "Transfers are decided predictions that another model taught: they refer to its trial, or to the ratio of two "
        "configurations that had both been measured on it; transfer_hits of them came true.",
        "SELECT proposer, trials, on_front, confirmed, refuted, transfers, transfer_hits FROM agent_credit "
        "ORDER BY on_front DESC",
        """SELECT c.name AS campaign, t.proposer, t.arm, COUNT(*) AS trials,
    SUM(CASE WHEN t.state = 'complete' THEN 1 ELSE 0 END) AS completed,
    SUM(CASE WHEN t.state IN ('failed', 'quarantined') THEN 1 ELSE 0 END) AS failed,
    SUM(CASE WHEN f.trial_id IS NOT NULL THEN 1 ELSE 0 END) AS on_front,
    SUM(CASE WHEN p.trial_id IS NOT NULL THEN 1 ELSE 0 END) AS predictions,
    SUM(CASE WHEN p.verdict = 'confirmed' THEN 1 ELSE 0 END) AS confirmed,
    SUM(CASE WHEN p.verdict = 'refuted' THEN 1 ELSE 0 END) AS refuted,
    SUM(CASE WHEN p.verdict IN ('confirmed', 'refuted') AND s.trial_id IS NOT NULL THEN 1 ELSE 0 END) AS transfers,
    SUM(CASE WHEN p.verdict = 'confirmed' AND s.trial_id IS NOT NULL THEN 1 ELSE 0 END) AS transfer_hits,
    SUM(t.seconds) AS worker_seconds, t.campaign_id
FROM trials t JOIN campaigns c ON c.id = t.campaign_id LEFT JOIN front f ON f.trial_id = t.id
    LEFT JOIN predictions p ON p.trial_id = t.id LEFT JOIN (
        SELECT DISTINCT q.trial_id FROM predictions q JOIN trials u ON u.id = q.trial_id
            JOIN trials v ON v.id = q.reference_id
            LEFT JOIN trials a ON a.campaign_id = u.campaign_id AND a.configuration_id = u.configuration_id
                AND a.model <> u.model AND a.state = 'complete' AND a.id < u.id
            LEFT JOIN trials b ON b.campaign_id = u.campaign_id AND b.configuration_id = v.configuration_id
                AND b.model = a.model AND b.state = 'complete' AND b.id < u.id
        WHERE v.model <> u.model OR (b.id IS NOT NULL AND u.configuration_id <> v.configuration_id)
    ) s ON s.trial_id = t.id
GROUP BY t.campaign_id, c.name, t.proposer, t.arm""",
    ),
    "spend": View(
        "The ledger: what of each budget is capped, reserved and spent; role '' is the whole campaign.",
        "SELECT kind, spent, cap FROM spend WHERE role = ''",
        f"""SELECT c.name AS campaign, b.kind, b.role, {_unit("b.cap")} AS cap, {_unit("b.reserved")} AS reserved,
    {_unit("b.spent")} AS spent, {_unit("b.cap - b.spent - b.reserved")} AS remaining, b.campaign_id
FROM budgets b JOIN campaigns c ON c.id = b.campaign_id
WHERE b.role = '' OR b.reserved > 0 OR b.spent > 0 OR b.cap IS NOT NULL""",
    ),
}

_FROM_TRIALS = "FROM arrays a JOIN trials t ON t.id = a.trial_id JOIN campaigns c ON c.id = t.campaign_id"
_SERIES = {
    "sqlite": f"CAST(e.key AS INTEGER) AS layer, e.value AS value {_FROM_TRIALS}, json_each(a.series) e",
    "postgresql": "CAST(e.position - 1 AS integer) AS layer, CAST(e.item #>> '{}' AS double precision) AS value "
    + f"{_FROM_TRIALS} CROSS JOIN LATERAL jsonb_array_elements(a.series) WITH ORDINALITY AS e(item, position)",
}


def statement(name: str, dialect: str) -> str:
    """The CREATE VIEW of a view on a database."""
    return f"CREATE VIEW {name} AS {VIEWS[name].sql.format(series=_SERIES[dialect])}"


def drop(connection: Connection) -> None:
    """Remove our views, so that tables can change."""
    for name in set(inspect(connection).get_view_names()) & set(VIEWS):
        connection.exec_driver_sql(f"DROP VIEW {name}")


def create(connection: Connection) -> None:
    """Make all views."""
    for name in VIEWS:
        connection.exec_driver_sql(statement(name, connection.dialect.name))
