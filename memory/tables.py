"""The tables of the shared memory, one for every kind of thing that is remembered.

New stores get them as they are here, older ones by migrations; a test holds the two equal.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import CheckConstraint, Column, ForeignKey, Index, MetaData, Table, UniqueConstraint
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import BigInteger, Double, Integer, String, Text

from swarm.memory.types import (
    Amount,
    Document,
    Key,
    UtcTime,
    created_at,
    identity,
    optional,
    reference,
    required,
    utc_now,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _table(name: str, *parts: SchemaItem, **options: Any) -> Table:
    return Table(name, metadata, *parts, **options)


campaigns = _table(
    "campaigns",
    identity(),
    Column("name", String(200), nullable=False, unique=True),
    Column("settings", Document, nullable=False),
    Column("seed", BigInteger, nullable=False),
    Column("budget", Document, nullable=False),
    Column("state", String(16), nullable=False),
    Column("next_number", Integer, nullable=False, default=0),
    Column("turn_owner", String(200)),
    Column("turn_token", BigInteger, nullable=False, default=0),
    *optional(Double, "turn_at", "turn_expires"),
    created_at(),
    Column("finished_at", UtcTime),
)

models = _table(
    "models",
    Column("name", String(200), primary_key=True),
    Column("family", String(64), nullable=False),
    Column("digest", String(128), nullable=False),
    Column("n_layers", Integer, nullable=False),
    Column("info", Document, nullable=False),
    Column("updated_at", UtcTime, nullable=False, default=utc_now(), onupdate=utc_now()),
)

environments = _table(
    "environments",
    identity(),
    Column("digest", String(64), nullable=False, unique=True),
    Column("data", Document, nullable=False),
)

trials = _table(
    "trials",
    identity(),
    reference("campaigns.id"),
    Column("number", Integer, nullable=False),
    Column("fingerprint", String(64), nullable=False),
    *required(Document, "spec", "versions"),
    Column("state", String(16), nullable=False),
    Column("outcome", String(32), nullable=False, default=""),
    *required(Text, "message", "notes", default=""),
    Column("proposer", String(64), nullable=False),
    Column("arm", String(16), nullable=False),
    # Copied out of `spec`, so that questions need no JSON functions.
    *required(String(200), "model", "key_label", "value_label", "configuration"),
    *required(String(64), "protocol", "key_method", "value_method"),
    *required(Integer, "protocol_version", "rung", "context", "replicate"),
    *optional(Integer, "key_bits", "value_bits", "first_layer", "last_layer", "n_quantized"),
    Column("logit_gain", Double, nullable=False),
    Column("edits", String(200), nullable=False, server_default=""),
    Column("device", String(16), nullable=False),
    Column("configuration_id", String(32), nullable=False),
    # Copied out of `measurements` (triggers keep them equal), so that rankings read one index.
    *optional(Double, "kld", "bits_per_value"),
    reference("environments.id", nullable=True),
    Column("seconds", Double, nullable=False, default=0.0),
    Column("timings", Document),
    *required(Integer, "attempts", "crashes", default=0),
    # The lease. `lease_token` only grows: a write under an older token is refused.
    Column("lease_owner", String(200)),
    Column("lease_token", BigInteger, nullable=False, default=0),
    *optional(Double, "lease_at", "lease_expires"),
    created_at(),
    *optional(UtcTime, "started_at", "finished_at"),
    UniqueConstraint("campaign_id", "number"),
    UniqueConstraint("campaign_id", "fingerprint"),
    Index("ix_trials_campaign_id_state_number", "campaign_id", "state", "number"),
    Index("ix_trials_fingerprint", "fingerprint"),
    # Rankings read these to their limit and stop; the id that breaks ties follows by itself.
    Index("ix_trials_ranking", "campaign_id", "model", "kld"),
    Index("ix_trials_campaign_id_kld", "campaign_id", "kld"),
    Index("ix_trials_configuration_id", "configuration_id", "model"),
)

measurements = _table(
    "measurements",
    reference("trials.id", primary=True),
    Column("metric", String(64), primary_key=True),
    Column("value", Double, nullable=False),
    Column("unit", String(32), nullable=False, default=""),
    Column("n", Integer, nullable=False, default=1),
    Column("stderr", Double),
    sqlite_with_rowid=False,
)

arrays = _table(
    "arrays",
    reference("trials.id", primary=True),
    Column("name", String(64), primary_key=True),
    Column("series", Document, nullable=False),
)

GROUP = ("campaign_id", "model", "protocol", "protocol_version", "rung", "context")
"""What trials have in common whose results stand on one front."""

front = _table(
    "front",
    reference("trials.id", primary=True),
    reference("campaigns.id"),
    Column("model", String(200), nullable=False),
    Column("protocol", String(64), nullable=False),
    *required(Integer, "protocol_version", "rung", "context"),
    *required(Double, "bits_per_value", "kld"),
    Index("ix_front_group", *GROUP, "bits_per_value", "kld"),
)

proposals = _table(
    "proposals",
    identity(),
    reference("campaigns.id"),
    reference("trials.id", nullable=True),
    Column("number", Integer, nullable=False),
    Column("proposer", String(64), nullable=False),
    Column("arm", String(16), nullable=False),
    *required(Text, "rationale", "refused", default=""),
    created_at(),
    UniqueConstraint("trial_id"),
    Index("ix_proposals_campaign_id_number", "campaign_id", "number"),
)

predictions = _table(
    "predictions",
    reference("trials.id", primary=True),
    Column("metric", String(64), nullable=False),
    Column("comparator", String(2), nullable=False),
    Column("threshold", Double, nullable=False),
    Column("reference_id", Key, ForeignKey("trials.id")),
    Column("verdict", String(16), nullable=False, default="open"),
    *optional(Double, "observed", "low", "high"),
    Column("scored_by", String(64)),
    Column("scored_at", UtcTime),
    created_at(),
    Index("ix_predictions_verdict", "verdict"),
)

findings = _table(
    "findings",
    identity(),
    reference("campaigns.id"),
    Column("key", String(200), nullable=False),
    Column("revision", Integer, nullable=False, default=1),
    Column("kind", String(32), nullable=False),
    Column("status", String(16), nullable=False),
    Column("statement", Text, nullable=False),
    Column("models", Document, nullable=False),
    Column("effect_name", String(200)),
    *optional(Double, "effect_value", "effect_low", "effect_high"),
    Column("effect_unit", String(32)),
    Column("author", String(64), nullable=False),
    created_at(),
    Column("updated_at", UtcTime, nullable=False, default=utc_now()),
    UniqueConstraint("campaign_id", "key"),
)

# A finding's evidence grows after proposals have built on it. `since` and `until` are revisions of the finding:
# so lineage goes from an earlier revision to a later one and never in a circle.
evidence = _table(
    "evidence",
    reference("findings.id", primary=True),
    reference("trials.id", primary=True),
    Column("since", Integer, primary_key=True),
    Column("until", Integer),
    Index("ix_evidence_trial_id", "trial_id"),
)

proposal_parents = _table(
    "proposal_parents",
    reference("proposals.id", primary=True),
    reference("findings.id", primary=True),
    Column("revision", Integer, nullable=False),
    Index("ix_proposal_parents_finding_id", "finding_id"),
)

summaries = _table(
    "summaries",
    identity(),
    reference("campaigns.id"),
    Column("title", String(200), nullable=False),
    Column("text", Text, nullable=False),
    Column("author", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    created_at(),
    Index("ix_summaries_state", "state"),
)

summary_evidence = _table(
    "summary_evidence",
    Column("summary_id", Key, ForeignKey("summaries.id"), primary_key=True),
    reference("trials.id", primary=True),
)

reviews = _table(
    "reviews",
    identity(),
    Column("summary_id", Key, ForeignKey("summaries.id"), nullable=False, index=True),
    Column("state", String(16), nullable=False),
    Column("reviewer", String(200), nullable=False),
    Column("note", Text, nullable=False, default=""),
    created_at(),
)

agent_calls = _table(
    "agent_calls",
    identity(),
    reference("campaigns.id"),
    *required(String(64), "role", "prompt_hash"),
    Column("model", String(200), nullable=False),
    *required(Integer, "tokens_in", "tokens_out"),
    Column("usd", Amount, nullable=False),
    Column("seconds", Double, nullable=False),
    Column("outcome", String(64), nullable=False),
    Column("message", Text, nullable=False, default=""),
    created_at(),
    Index("ix_agent_calls_campaign_id", "campaign_id", "id"),
)

events = _table(
    "events",
    identity(),
    reference("campaigns.id", nullable=True),
    reference("trials.id", nullable=True),
    Column("kind", String(64), nullable=False),
    Column("message", Text, nullable=False, default=""),
    Column("data", Document, nullable=False),
    created_at(),
    Index("ix_events_campaign_id", "campaign_id", "id"),
    Index("ix_events_trial_id", "trial_id"),
)

# The ledger's accounts: one per campaign and kind (role ''), and one per role below it.
budgets = _table(
    "budgets",
    reference("campaigns.id", primary=True),
    Column("kind", String(16), primary_key=True),
    Column("role", String(64), primary_key=True, default=""),
    Column("cap", Amount),
    *required(Amount, "reserved", "spent", default=0.0),
    *(CheckConstraint(f"{name} >= 0", name=name) for name in ("reserved", "spent")),
)

reservations = _table(
    "reservations",
    identity(),
    reference("campaigns.id"),
    Column("kind", String(16), nullable=False),
    Column("role", String(64), nullable=False, default=""),
    Column("amount", Amount, nullable=False),
    Column("spent", Amount, nullable=False, default=0.0),
    Column("state", String(16), nullable=False, default="held"),
    reference("trials.id", nullable=True),
    Column("expires", Double),
    created_at(),
    Column("closed_at", UtcTime),
    Index("ix_reservations_trial_id", "trial_id"),
    Index("ix_reservations_campaign_id_state", "campaign_id", "state"),
)
