"""The first schema."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from swarm.memory.migrations import sql_0001

revision = "0001"
down_revision = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DOCUMENT = sa.JSON().with_variant(postgresql.JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Make all tables, the full-text index and the triggers."""
    op.create_table(
        "campaigns",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("settings", DOCUMENT, nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("budget", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("next_number", sa.Integer(), nullable=False),
        sa.Column("turn_owner", sa.String(length=200), nullable=True),
        sa.Column("turn_token", sa.BigInteger(), nullable=False),
        sa.Column("turn_at", sa.Double(), nullable=True),
        sa.Column("turn_expires", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("finished_at", TIME, nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_campaigns")),
        sa.UniqueConstraint("name", name=op.f("uq_campaigns_name")),
    )
    op.create_table(
        "environments",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_environments")),
        sa.UniqueConstraint("digest", name=op.f("uq_environments_digest")),
    )
    op.create_table(
        "models",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("family", sa.String(length=64), nullable=False),
        sa.Column("digest", sa.String(length=128), nullable=False),
        sa.Column("n_layers", sa.Integer(), nullable=False),
        sa.Column("info", DOCUMENT, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_models")),
    )
    op.create_table(
        "agent_calls",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("prompt_hash", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("tokens_in", sa.Integer(), nullable=False),
        sa.Column("tokens_out", sa.Integer(), nullable=False),
        sa.Column("usd", sa.BigInteger(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("outcome", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_agent_calls_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_agent_calls")),
    )
    op.create_index("ix_agent_calls_campaign_id", "agent_calls", ["campaign_id", "id"], unique=False)
    op.create_table(
        "budgets",
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("cap", sa.BigInteger(), nullable=True),
        sa.Column("reserved", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("reserved >= 0", name=op.f("ck_budgets_reserved")),
        sa.CheckConstraint("spent >= 0", name=op.f("ck_budgets_spent")),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_budgets_campaign_id")),
        sa.PrimaryKeyConstraint("campaign_id", "kind", "role", name=op.f("pk_budgets")),
    )
    op.create_table(
        "findings",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("key", sa.String(length=200), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("statement", sa.Text(), nullable=False),
        sa.Column("models", DOCUMENT, nullable=False),
        sa.Column("effect_name", sa.String(length=200), nullable=True),
        sa.Column("effect_value", sa.Double(), nullable=True),
        sa.Column("effect_low", sa.Double(), nullable=True),
        sa.Column("effect_high", sa.Double(), nullable=True),
        sa.Column("effect_unit", sa.String(length=32), nullable=True),
        sa.Column("author", sa.String(length=64), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("updated_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_findings_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_findings")),
        sa.UniqueConstraint("campaign_id", "key", name=op.f("uq_findings_campaign_id_key")),
    )
    op.create_table(
        "summaries",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("title", sa.String(length=200), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("author", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_summaries_campaign_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_summaries")),
    )
    op.create_index("ix_summaries_state", "summaries", ["state"], unique=False)
    op.create_table(
        "trials",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
        sa.Column("spec", DOCUMENT, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("notes", sa.Text(), nullable=False),
        sa.Column("proposer", sa.String(length=64), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("protocol", sa.String(length=64), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("context", sa.Integer(), nullable=False),
        sa.Column("replicate", sa.Integer(), nullable=False),
        sa.Column("logit_gain", sa.Double(), nullable=False),
        sa.Column("device", sa.String(length=16), nullable=False),
        sa.Column("key_method", sa.String(length=64), nullable=False),
        sa.Column("key_bits", sa.Integer(), nullable=True),
        sa.Column("key_label", sa.String(length=200), nullable=False),
        sa.Column("value_method", sa.String(length=64), nullable=False),
        sa.Column("value_bits", sa.Integer(), nullable=True),
        sa.Column("value_label", sa.String(length=200), nullable=False),
        sa.Column("configuration", sa.String(length=200), nullable=False),
        sa.Column("configuration_id", sa.String(length=32), nullable=False),
        sa.Column("first_layer", sa.Integer(), nullable=True),
        sa.Column("last_layer", sa.Integer(), nullable=True),
        sa.Column("n_quantized", sa.Integer(), nullable=True),
        sa.Column("kld", sa.Double(), nullable=True),
        sa.Column("bits_per_value", sa.Double(), nullable=True),
        sa.Column("environment_id", KEY, nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("timings", DOCUMENT, nullable=True),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("crashes", sa.Integer(), nullable=False),
        sa.Column("lease_owner", sa.String(length=200), nullable=True),
        sa.Column("lease_token", sa.BigInteger(), nullable=False),
        sa.Column("lease_at", sa.Double(), nullable=True),
        sa.Column("lease_expires", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("started_at", TIME, nullable=True),
        sa.Column("finished_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_trials_campaign_id")),
        sa.ForeignKeyConstraint(["environment_id"], ["environments.id"], name=op.f("fk_trials_environment_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("campaign_id", "fingerprint", name=op.f("uq_trials_campaign_id_fingerprint")),
        sa.UniqueConstraint("campaign_id", "number", name=op.f("uq_trials_campaign_id_number")),
    )
    op.create_index("ix_trials_campaign_id_state_number", "trials", ["campaign_id", "state", "number"], unique=False)
    op.create_index("ix_trials_configuration_id", "trials", ["configuration_id", "model"], unique=False)
    op.create_index("ix_trials_fingerprint", "trials", ["fingerprint"], unique=False)
    op.create_index("ix_trials_ranking", "trials", ["campaign_id", "model", "kld"], unique=False)
    op.create_index("ix_trials_campaign_id_kld", "trials", ["campaign_id", "kld"], unique=False)
    op.create_table(
        "arrays",
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("series", DOCUMENT, nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_arrays_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", "name", name=op.f("pk_arrays")),
    )
    op.create_table(
        "events",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=True),
        sa.Column("trial_id", KEY, nullable=True),
        sa.Column("kind", sa.String(length=64), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("data", DOCUMENT, nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_events_campaign_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_events_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
    )
    op.create_index("ix_events_campaign_id", "events", ["campaign_id", "id"], unique=False)
    op.create_index("ix_events_trial_id", "events", ["trial_id"], unique=False)
    op.create_table(
        "evidence",
        sa.Column("finding_id", KEY, nullable=False),
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("since", sa.Integer(), nullable=False),
        sa.Column("until", sa.Integer(), nullable=True),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name=op.f("fk_evidence_finding_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_evidence_trial_id")),
        sa.PrimaryKeyConstraint("finding_id", "trial_id", "since", name=op.f("pk_evidence")),
    )
    op.create_index("ix_evidence_trial_id", "evidence", ["trial_id"], unique=False)
    op.create_table(
        "front",
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("model", sa.String(length=200), nullable=False),
        sa.Column("protocol", sa.String(length=64), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("context", sa.Integer(), nullable=False),
        sa.Column("bits_per_value", sa.Double(), nullable=False),
        sa.Column("kld", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_front_campaign_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_front_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_front")),
    )
    op.create_index(
        "ix_front_group",
        "front",
        ["campaign_id", "model", "protocol", "rung", "context", "bits_per_value", "kld"],
        unique=False,
    )
    op.create_table(
        "measurements",
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(length=32), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("stderr", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_measurements_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", "metric", name=op.f("pk_measurements")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "predictions",
        sa.Column("trial_id", KEY, nullable=False),
        sa.Column("metric", sa.String(length=64), nullable=False),
        sa.Column("comparator", sa.String(length=2), nullable=False),
        sa.Column("threshold", sa.Double(), nullable=False),
        sa.Column("reference_id", KEY, nullable=True),
        sa.Column("verdict", sa.String(length=16), nullable=False),
        sa.Column("observed", sa.Double(), nullable=True),
        sa.Column("low", sa.Double(), nullable=True),
        sa.Column("high", sa.Double(), nullable=True),
        sa.Column("scored_by", sa.String(length=64), nullable=True),
        sa.Column("scored_at", TIME, nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["reference_id"], ["trials.id"], name=op.f("fk_predictions_reference_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_predictions_trial_id")),
        sa.PrimaryKeyConstraint("trial_id", name=op.f("pk_predictions")),
    )
    op.create_index("ix_predictions_verdict", "predictions", ["verdict"], unique=False)
    op.create_table(
        "proposals",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("trial_id", KEY, nullable=True),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("proposer", sa.String(length=64), nullable=False),
        sa.Column("arm", sa.String(length=16), nullable=False),
        sa.Column("rationale", sa.Text(), nullable=False),
        sa.Column("refused", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_proposals_campaign_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_proposals_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_proposals")),
        sa.UniqueConstraint("trial_id", name=op.f("uq_proposals_trial_id")),
    )
    op.create_index("ix_proposals_campaign_id_number", "proposals", ["campaign_id", "number"], unique=False)
    op.create_table(
        "reservations",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("campaign_id", KEY, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=64), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("spent", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("trial_id", KEY, nullable=True),
        sa.Column("expires", sa.Double(), nullable=True),
        sa.Column("created_at", TIME, nullable=False),
        sa.Column("closed_at", TIME, nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaigns.id"], name=op.f("fk_reservations_campaign_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_reservations_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reservations")),
    )
    op.create_index("ix_reservations_campaign_id_state", "reservations", ["campaign_id", "state"], unique=False)
    op.create_index("ix_reservations_trial_id", "reservations", ["trial_id"], unique=False)
    op.create_table(
        "reviews",
        sa.Column("id", KEY, autoincrement=True, nullable=False),
        sa.Column("summary_id", KEY, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("reviewer", sa.String(length=200), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("created_at", TIME, nullable=False),
        sa.ForeignKeyConstraint(["summary_id"], ["summaries.id"], name=op.f("fk_reviews_summary_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_reviews")),
    )
    op.create_index(op.f("ix_reviews_summary_id"), "reviews", ["summary_id"], unique=False)
    op.create_table(
        "summary_evidence",
        sa.Column("summary_id", KEY, nullable=False),
        sa.Column("trial_id", KEY, nullable=False),
        sa.ForeignKeyConstraint(["summary_id"], ["summaries.id"], name=op.f("fk_summary_evidence_summary_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_summary_evidence_trial_id")),
        sa.PrimaryKeyConstraint("summary_id", "trial_id", name=op.f("pk_summary_evidence")),
    )
    op.create_table(
        "proposal_parents",
        sa.Column("proposal_id", KEY, nullable=False),
        sa.Column("finding_id", KEY, nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["finding_id"], ["findings.id"], name=op.f("fk_proposal_parents_finding_id")),
        sa.ForeignKeyConstraint(["proposal_id"], ["proposals.id"], name=op.f("fk_proposal_parents_proposal_id")),
        sa.PrimaryKeyConstraint("proposal_id", "finding_id", name=op.f("pk_proposal_parents")),
    )
    op.create_index("ix_proposal_parents_finding_id", "proposal_parents", ["finding_id"], unique=False)
    for statement in sql_0001.STATEMENTS[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)
