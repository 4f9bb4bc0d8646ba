"""Trials as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import TypedDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.memory.records import TrialRecord


OUTDATED = "ran with an older version of its protocol or of a method; no effect counts it"


class TrialRow(TypedDict):
    """A trial as one row of a listing. `outdated` ones ran with an older version of their protocol or a method."""

    id: int
    number: int
    model: str
    protocol: str
    rung: int
    configuration: str
    layers: str
    edits: str
    bits_per_value: float | None
    kld: float | None
    state: str
    outcome: str
    outdated: bool
    message: str
    arm: str
    proposer: str
    seconds: float
    metrics: dict[str, float]


def trial_row(record: TrialRecord) -> TrialRow:
    """A trial as one row of a listing."""
    from swarm.experiments import edits

    spec = record.spec
    values = {name: metric.value for name, metric in record.metrics.items()}
    return {
        "id": record.id,
        "number": record.number,
        "model": spec.model,
        "protocol": spec.protocol,
        "rung": spec.rung,
        "configuration": spec.label,
        "layers": layers(spec.layers),
        "edits": edits.label(spec.edits),
        "bits_per_value": values.get("bits_per_value"),
        "kld": values.get("kld"),
        "state": record.state,
        "outcome": record.outcome,
        "outdated": record.outdated,
        "message": record.message,
        "arm": record.arm,
        "proposer": record.proposer,
        "seconds": record.seconds,
        "metrics": values,
    }


def layers(found: Sequence[int] | None) -> str:
    """Which layers are quantized, in a few characters: `all`, `3`, `0-5` or `0, 2, 7`."""
    if found is None:
        return "all"
    if len(found) > 1 and list(found) == list(range(found[0], found[-1] + 1)):
        return f"{found[0]}-{found[-1]}"
    return ", ".join(map(str, found))
