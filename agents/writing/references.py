"""Numbers in texts as references into the store: `{trial:12:kld}`, `{finding:3:value}`, `{fact:control.gain}`.

They are resolved from a history when a text is shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

from swarm.agents.analysis import control_arm, judge
from swarm.agents.analysis.results import config_label
from swarm.agents.generation import bandit
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments import edits
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import UsageError
from swarm.kernels.wording import in_words
from swarm.memory.records import Finding, TrialRecord

PATTERN = re.compile(r"\{(trial|finding|fact):([^{}\s]+)\}")

MAX_WORDS = 30
"""Words of a sentence in a text for people."""

SENTENCE_END = re.compile(r"(?<=[.!?;])\s+")

FACT_HELP = "trials.complete, trials.failed, control.gain, credit.<proposer>.rate, predictions.<proposer>.confirmed"


class UnresolvedError(UsageError):
    """A reference that names nothing in the store."""


@dataclass(frozen=True)
class Resolver:
    """Resolves references against a history, to numbers and to text.

    References:
        `{trial:ID}`, `{trial:ID:FIELD}` with a metric's name, `context`, `label`, `words` (the label in words), `model`
        or `number`;
        `{finding:ID}`, `{finding:ID:FIELD}` with `value`, `low`, `high`, `effect` (its name and `size`), `statement`,
        `says` (the statement in sentences of few words), `status`, `claim` or `verdict`;
        `{fact:NAME}` with a count or rate that is computed from all trials.
    """

    history: History
    settings: AgentSettings

    @cached_property
    def _trials(self) -> dict[int, TrialRecord]:
        return {record.id: record for record in self.history.records}

    @cached_property
    def _findings(self) -> dict[int, Finding]:
        return {record.id: record.finding for record in self.history.findings}

    @cached_property
    def facts(self) -> Mapping[str, float]:
        """Counts and rates by name."""
        return {
            **_counts(self.history),
            **_credits(self.history, self.settings),
            **_predictions(self.history),
            **_control(self.history, self.settings),
        }

    def number(self, reference: str) -> float:
        """The number that a reference (without braces) stands for.

        Raises:
            UnresolvedError: it names nothing, or no number.
        """
        kind, _, rest = reference.partition(":")
        if kind == "fact":
            if rest not in self.facts:
                raise UnresolvedError(f"there is no fact {rest!r}.", f"Facts are: {FACT_HELP}.")
            return self.facts[rest]
        identity, _, field = rest.partition(":")
        if kind == "trial":
            trial = self.trial(identity)
            if field == "context":
                return float(trial.spec.context)
            if field not in trial.metrics:
                raise UnresolvedError(
                    f"trial {trial.id} has no metric {field!r}.", f"It has: {', '.join(sorted(trial.metrics))}."
                )
            return trial.metrics[field].value
        effect = self.finding(identity).effect
        if effect is None or field not in ("value", "low", "high"):
            raise UnresolvedError(f"finding {identity} has no number {field!r}.", "It may have value, low and high.")
        return float(getattr(effect, field))

    def trial(self, identity: str) -> TrialRecord:
        """The trial with that id.

        Raises:
            UnresolvedError: there is none, or it has no result.
        """
        found = self._trials.get(int(identity)) if identity.isdecimal() else None
        if found is None or found.state not in ("complete", "failed"):
            raise UnresolvedError(f"there is no finished trial {identity!r}.", "Refer to trials of this campaign.")
        return found

    def finding(self, identity: str) -> Finding:
        """The finding with that id.

        Raises:
            UnresolvedError: there is none.
        """
        found = self._findings.get(int(identity)) if identity.isdecimal() else None
        if found is None:
            raise UnresolvedError(f"there is no finding {identity!r}.", "Refer to findings of this campaign.")
        return found

    def text(self, reference: str) -> str:
        """What a reference (without braces) is shown as.

        Raises:
            UnresolvedError: it names nothing.
        """
        kind, _, rest = reference.partition(":")
        identity, _, field = rest.partition(":")
        if kind == "trial" and field in _OF_TRIAL:
            return _OF_TRIAL[field](self.trial(identity))
        if kind == "finding" and field in _OF_FINDING:
            return _OF_FINDING[field](identity, self.finding(identity))
        return shown(self.number(reference))

    def render(self, text: str) -> str:
        """The text with every reference resolved; what cannot be resolved any more is marked.

        A store can lose a finding or a result after a summary was written: that is shown, never guessed over.
        """

        def replace(match: re.Match[str]) -> str:
            try:
                return self.text(match.group(0)[1:-1])
            except UnresolvedError as error:
                return f"[unresolved: {error.problem}]"

        return PATTERN.sub(replace, text)


def shown(value: float) -> str:
    """A number with three significant digits; whole numbers as they are."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}"


_OF_TRIAL: dict[str, Callable[[TrialRecord], str]] = {
    "": lambda trial: f"trial {trial.id}",
    "label": lambda trial: config_label(trial.spec),
    "words": lambda trial: _words(trial.spec),
    "model": lambda trial: trial.spec.model,
    "number": lambda trial: str(trial.number),
}


def _words(spec: TrialSpec) -> str:
    gain = f" Logits times {spec.logit_gain:g}." if spec.logit_gain != 1.0 else ""
    return in_words(spec.kv) + gain + (f" Weights edited: {edits.label(spec.edits)}." if spec.edits else "")


def _short(sentence: str) -> str:
    """A sentence in parts of not more words than people read at once; what is cut off stands in the finding itself."""
    words = sentence.split()
    if len(words) < MAX_WORDS:  # a dash may stand before it
        return sentence
    first, colon, rest = sentence.partition(": ")
    if colon:
        return f"{_short(first)}. {_short(rest[:1].upper() + rest[1:])}"
    return " ".join(words[: MAX_WORDS - 1]) + " ..."


def _size(finding: Finding) -> str:
    effect = finding.effect
    return "no effect size" if effect is None else f"{shown(effect.value)} [{shown(effect.low)}, {shown(effect.high)}]"


_OF_FINDING: dict[str, Callable[[str, Finding], str]] = {
    "": lambda identity, _: f"finding {identity}",
    "statement": lambda _, finding: finding.statement,
    "says": lambda _, finding: " ".join(map(_short, SENTENCE_END.split(finding.statement))),
    "status": lambda _, finding: finding.status,
    "effect": lambda _, finding: f"{finding.effect.name} {_size(finding)}" if finding.effect else _size(finding),
    "size": lambda _, finding: _size(finding),
    # Of an agenda: what is claimed, whatever the model, and whether it is so.
    "claim": lambda _, finding: finding.statement.rpartition(" (on ")[0] or finding.statement,
    "verdict": lambda _, finding: "undecided" if finding.status == "hypothesis" else finding.status,
}


def _counts(history: History) -> dict[str, float]:
    states = Counter(record.state for record in history.records if not record.outdated)
    counts: dict[str, float] = {f"trials.{name}": states[name] for name in ("complete", "failed")}
    counts["trials.proposed"] = len(history.records)
    for record in history.completed:
        name = f"trials.{record.spec.protocol}"
        counts[name] = counts.get(name, 0) + 1
    statuses = [record.finding.status for record in history.findings]
    return counts | {f"findings.{s}": statuses.count(s) for s in ("hypothesis", "confirmed", "refuted")}


def _credits(history: History, settings: AgentSettings) -> dict[str, float]:
    facts: dict[str, float] = {}
    for name, record in bandit.hit_rates(history.records, settings).items():
        facts |= {f"credit.{name}.hits": record.hits, f"credit.{name}.trials": record.trials}
        facts[f"credit.{name}.rate"] = record.hits / record.trials
    return facts


def _predictions(history: History) -> dict[str, float]:
    facts: Counter[str] = Counter()
    for record in history.records:
        score = judge.score(record, history)
        if score is None or score.verdict == "open":
            continue
        taught = score.verdict != "inconclusive" and history.is_taught(record)
        counts = {verdict: score.verdict == verdict for verdict in ("confirmed", "refuted", "inconclusive")}
        counts |= {"scored": True, "transfers": taught, "transfer_hits": taught and counts["confirmed"]}
        facts.update({f"predictions.{record.proposer}.{name}": int(count) for name, count in counts.items()})
    names = {key.rpartition(".")[0] for key in facts}
    return {**facts, **{f"{name}.rate": facts[f"{name}.confirmed"] / facts[f"{name}.scored"] for name in names}}


def _control(history: History, settings: AgentSettings) -> dict[str, float]:
    effect = control_arm.gain(history.records, settings)
    if effect is None:
        return {}
    return {"control.gain": effect.value, "control.gain.low": effect.low, "control.gain.high": effect.high}
