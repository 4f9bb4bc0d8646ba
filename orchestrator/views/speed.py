"""How fast configurations decode, beside what they lose and cost, as rows; and times for a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from swarm.experiments.spec import Metric
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store
    from swarm.orchestrator.views.source import Source


class SpeedRow(TypedDict):
    """A configuration whose kernels were timed; `decode_us` are microseconds per step and layer at `context` tokens.

    `decode_us_16` are those of 16-bit attention, `front` whether no other beats it in KLD, bits and microseconds.
    """

    model: str
    device: str
    trial_id: int
    timed_by: int
    configuration: str
    kld: float
    bits_per_value: float
    context: int
    decode_us: float
    decode_us_16: float
    front: bool


def speed_rows(source: Source) -> list[SpeedRow]:
    """Every configuration of a campaign whose kernels were timed, the fastest of each model first.

    Raises:
        TooMuchError: there are too many trials for a page.
    """
    from swarm.agents.analysis.speed import front, timed_results
    from swarm.experiments.measurement.kernel_time import HALF_PRECISION

    rows: list[SpeedRow] = []
    for model in source.models:
        found = timed_results(source.history.records, model)
        best = {one.result.ids for one in front(found)}
        for one in sorted(found, key=lambda one: one.microseconds):
            record = one.result.records[0]
            rows.append(
                {
                    "model": model,
                    "device": record.spec.device,
                    "trial_id": record.id,
                    "timed_by": one.timing.id,
                    "configuration": record.spec.kv.label,
                    "kld": record.metrics["kld"].value,
                    "bits_per_value": one.result.bits or 0.0,
                    "context": one.context,
                    "decode_us": one.microseconds,
                    "decode_us_16": one.timing.metrics[f"{HALF_PRECISION}_at_{one.context}"].value,
                    "front": one.result.ids in best,
                }
            )
    return rows


def times_of(store: Store, record: TrialRecord) -> dict[str, Metric]:
    """What kernels took for a trial's configuration on its device, by metric; empty where nobody timed them."""
    from swarm.agents.analysis.speed import formats, timed

    trials = store.trials.list(model=record.spec.model, protocol="attention", state="complete", arrays=False)
    found = timed(trials).get((record.spec.model, formats(record.spec.kv), record.spec.device))
    return {} if found is None else {name: metric for name, metric in found.metrics.items() if metric.unit == "us"}
