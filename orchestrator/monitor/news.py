"""What happened in a campaign, as one line each. Knows records and words; keeps nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from swarm.memory.records import Finding, Prediction, PredictionRecord, TrialRecord
from swarm.orchestrator.console import clean, number

Kind = Literal["proposal", "best", "verdict", "finding", "failure", "phase"]

TARGET_BITS = 4.6
"""Bits per value under which the best configuration of a model is shown."""


@dataclass(frozen=True)
class News:
    """One line: what kind of news, whether it is good, bad or neither, and the text."""

    kind: Kind
    text: str
    mood: Literal["good", "bad", ""] = ""

    def line(self, width: int | None = None) -> str:
        """The text on one line, cut between words to so many characters."""
        text = clean(self.text).replace("\n", " ").replace("\t", " ")
        if width is None or len(text) <= width:
            return text
        head = text[: max(1, width - 1)]
        space = head.rfind(" ")
        return (head[:space] if space > 0.5 * width else head).rstrip(" ,;:") + "…"


def describe(record: TrialRecord) -> str:
    """A configuration in a few words."""
    return record.spec.kv.label


def proposed(record: TrialRecord) -> News:
    """Somebody wants a trial, and may have said what it will show."""
    expects = f", predicts {predicted(record.prediction)}" if record.prediction else ""
    rung = "" if record.spec.protocol == "quality" and not record.spec.rung else f" {record.spec.protocol}"
    rung += f" rung {record.spec.rung}" if record.spec.rung else ""
    return News("proposal", f"{record.id} {record.proposer}{expects}: {describe(record)} on {record.spec.model}{rung}")


def predicted(prediction: Prediction) -> str:
    """A prediction in a few words."""
    of = "" if prediction.reference is None else f" x trial {prediction.reference}"
    return f"{prediction.metric} {prediction.comparator} {number(prediction.threshold, 3)}{of}"


def judged(scored: PredictionRecord) -> News:
    """A prediction was scored."""
    seen = "" if scored.observed is None else f", is {number(scored.observed, 3)}"
    if scored.low is not None and scored.high is not None:
        seen += f" [{number(scored.low, 3)}, {number(scored.high, 3)}]"
    mood: Literal["good", "bad", ""] = {"confirmed": "good", "refuted": "bad"}.get(scored.verdict, "")  # type: ignore[assignment]
    text = f"{scored.verdict}: trial {scored.trial_id} {predicted(scored.prediction)}{seen} ({scored.proposer})"
    return News("verdict", f"prediction {text}", mood)


def is_best(record: TrialRecord, kld: float, bits: float) -> News:
    """A trial is the best of its model so far."""
    return News(
        "best",
        f"best {record.spec.model} at <= {TARGET_BITS} bits: KLD {number(kld, 3)} at {bits:.2f} bits, "
        f"{describe(record)} (trial {record.id}, {record.proposer})",
        "good",
    )


def found(finding: Finding) -> News:
    """A claim is new, or has another status now."""
    effect = finding.effect
    size = "" if effect is None else f" {number(effect.value, 3)} [{number(effect.low, 3)}, {number(effect.high, 3)}]"
    mood: Literal["good", "bad", ""] = {"confirmed": "good", "refuted": "bad"}.get(finding.status, "")  # type: ignore[assignment]
    return News("finding", f"{finding.kind} [{finding.status}]{size} {finding.statement}", mood)


def failed(record: TrialRecord) -> News:
    """A trial ended without a measurement, and why."""
    return News("failure", f"trial {record.id} {record.outcome or record.state}: {record.message}", "bad")


def plateau(key: str) -> str:
    """What a finding of a plateau says stands still, from its key; empty when it says something else."""
    match key.split(":"):
        case ["plateau", "kld", bits, *_]:
            return f"KLD <= {bits} bits"
        case ["plateau", "bits", kld, *_]:
            return f"bits at KLD {kld}"
    return ""
