"""Writes a campaign into an Optuna RDB, so that optuna-dashboard and Optuna's tools open it."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import UsageError
from swarm.memory.errors import StoreError
from swarm.memory.records import TrialRecord
from swarm.memory.schema import VERSION_TABLE
from swarm.memory.store import Store

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

OBJECTIVES = ("kld", "bits_per_value")


def export(store: Store, url: str, campaign_id: int | None = None) -> list[str]:
    """Make one study per model and protocol of a campaign (the latest by default); returns their names.

    `url` is an Optuna storage URL such as `sqlite:///optuna.db`.

    Raises:
        UsageError: the target is a store of ours, has a study of that name, or there is nothing to export.
        StoreError: the target cannot be written.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    campaign = store.campaigns.get(campaign_id)
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for record in store.trials.list(campaign.id, arrays=False):
        if record.state not in ("waiting", "running"):
            groups[f"{campaign.name}/{record.spec.model}/{record.spec.protocol}"].append(record)
    studies = {name: records for name, records in groups.items() if any(map(_measured, records))}
    if not studies:
        raise UsageError(f"campaign {campaign.name!r} has no finished trials with both objectives.", "Let it run.")
    try:
        _refuse_stores(url)
        for name, records in studies.items():
            study = optuna.create_study(storage=url, study_name=name, directions=["minimize"] * len(OBJECTIVES))
            study.set_metric_names(list(OBJECTIVES))
            study.set_user_attr("campaign", campaign.name)
            study.add_trials(_trials(records))
    except optuna.exceptions.DuplicatedStudyError as error:
        raise UsageError(f"{url} has such a study already ({error}).", "Give a new database.") from error
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, ImportError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StoreError(f"{url} cannot be written ({reason}).", "Give a URL such as sqlite:///optuna.db.") from error
    return sorted(studies)


def _refuse_stores(url: str) -> None:
    """Optuna would make its tables beside ours, and some names are the same: neither program could write any more."""
    from sqlalchemy import create_engine, inspect

    engine = create_engine(url)
    try:
        if inspect(engine).has_table(VERSION_TABLE):
            raise UsageError(f"{url} is a store of kv-swarm.", "Give a database of its own: sqlite:///optuna.db.")
    finally:
        engine.dispose()


def parameters(record: TrialRecord) -> dict[str, Any]:
    """The searched part of a specification as flat parameters."""
    spec = record.spec
    flat: dict[str, Any] = {}
    for side, quantizer in (("key", spec.kv.key), ("value", spec.kv.value)):
        flat |= {f"{side}_{field}": value for field, value in quantizer.model_dump().items() if value is not None}
    flat |= {"sink_tokens": spec.kv.sink_tokens, "residual_window": spec.kv.residual_window}
    flat |= {"key_bias": spec.kv.key_bias, "context": spec.context, "rung": spec.rung, "replicate": spec.replicate}
    flat["overrides"] = len(spec.kv.overrides)
    flat["layers"] = "all" if spec.layers is None else ",".join(map(str, spec.layers))
    return flat


def _measured(record: TrialRecord) -> bool:
    return record.state == "complete" and all(name in record.metrics for name in OBJECTIVES)


def _trials(records: list[TrialRecord]) -> list[Any]:
    import optuna
    from optuna.trial import TrialState

    flat = [parameters(record) for record in records]
    known = _distributions(flat)
    made = []
    for record, values in zip(records, flat, strict=True):
        failed = TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL
        trial = optuna.trial.create_trial(
            state=TrialState.COMPLETE if _measured(record) else failed,
            values=[record.metrics[name].value for name in OBJECTIVES] if _measured(record) else None,
            params=values,
            distributions={name: known[name] for name in values},
            user_attrs=_attributes(record),
        )
        trial.datetime_start, trial.datetime_complete = record.created_at, record.finished_at
        made.append(trial)
    return made


def _distributions(flat: list[dict[str, Any]]) -> dict[str, BaseDistribution]:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    seen: dict[str, set[Any]] = defaultdict(set)
    for values in flat:
        for name, value in values.items():
            seen[name].add(value)
    return {
        name: IntDistribution(min(values), max(values))
        if all(isinstance(value, int) for value in values)
        else CategoricalDistribution(sorted(values, key=str))
        for name, values in seen.items()
    }


def _attributes(record: TrialRecord) -> dict[str, Any]:
    told = {"number", "proposer", "arm", "rationale", "outcome", "prediction", "verdict"}
    metrics = {name: metric.value for name, metric in record.metrics.items()}
    about = {"trial": record.id, "configuration": record.spec.label}
    return about | record.model_dump(mode="json", include=told) | metrics
