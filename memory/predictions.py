"""Registered predictions and their scores. Knows the predictions table; judges nothing itself."""

from __future__ import annotations

from typing import Any, get_args

from sqlalchemy import Row, select, update

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory import text
from swarm.memory.database import Database
from swarm.memory.events import record
from swarm.memory.records import Prediction, PredictionRecord, Verdict
from swarm.memory.tables import predictions, trials
from swarm.memory.types import utc_now


class Predictions:
    """`store.predictions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def score(
        self,
        trial_id: int,
        verdict: Verdict,
        *,
        observed: float | None = None,
        low: float | None = None,
        high: float | None = None,
        by: str = "referee",
    ) -> None:
        """Record how the prediction about a trial came out.

        Args:
            trial_id: the trial it was registered for.
            verdict: confirmed, refuted, inconclusive; open takes a score back.
            observed: the measured value, or ratio to the reference trial.
            low: lower end of its confidence interval.
            high: upper end.
            by: who scored it.

        Raises:
            UnknownNameError: that trial has no prediction.
        """
        if verdict not in get_args(Verdict):
            raise UsageError(f"unknown verdict {verdict!r}.", f"Known: {', '.join(get_args(Verdict))}.")
        values = {"verdict": verdict, "observed": observed, "low": low, "high": high, "scored_by": text.name(by, 64)}
        with self._database.write() as connection:
            statement = update(predictions).where(predictions.c.trial_id == trial_id)
            done = connection.execute(statement.values(**values, scored_at=utc_now())).rowcount
            if done:
                of = (trials.c.id == predictions.c.trial_id, trials.c.id == trial_id)
                row = connection.execute(select(predictions, trials.c.campaign_id, trials.c.proposer).where(*of)).one()
                what = {"observed": observed, "low": low, "high": high}
                record(
                    connection,
                    f"prediction.{verdict}",
                    _told(row),
                    campaign_id=row.campaign_id,
                    trial_id=trial_id,
                    data=what,
                )
        if not done:
            raise UnknownNameError("prediction of trial", str(trial_id))

    def list(self, campaign_id: int | None = None, *, verdict: Verdict | None = None) -> list[PredictionRecord]:
        """Predictions in order of their trials; verdict `open` are those not scored yet."""
        query = select(predictions, trials.c.campaign_id, trials.c.proposer).join(
            trials, trials.c.id == predictions.c.trial_id
        )
        if campaign_id is not None:
            query = query.where(trials.c.campaign_id == campaign_id)
        if verdict is not None:
            query = query.where(predictions.c.verdict == verdict)
        with self._database.read() as connection:
            return [_record(row) for row in connection.execute(query.order_by(predictions.c.trial_id))]


def _told(row: Row[Any]) -> str:
    """A scored prediction in a few words."""
    times = "" if row.reference_id is None else f" times that of trial {row.reference_id}"
    text = f"{row.proposer} predicted {row.metric} {row.comparator} {row.threshold:.3g}{times} for trial {row.trial_id}"
    if row.observed is None:
        return f"{text}, which cannot be told from what was measured."
    interval = "" if row.low is None or row.high is None else f" [{row.low:.3g}, {row.high:.3g}]"
    return f"{text}; it is {row.observed:.3g}{interval}."


def _record(row: Row[Any]) -> PredictionRecord:
    return PredictionRecord(
        trial_id=row.trial_id,
        campaign_id=row.campaign_id,
        proposer=row.proposer,
        prediction=Prediction(
            metric=row.metric, comparator=row.comparator, threshold=row.threshold, reference=row.reference_id
        ),
        verdict=row.verdict,
        observed=row.observed,
        low=row.low,
        high=row.high,
        scored_by=row.scored_by or "",
    )
