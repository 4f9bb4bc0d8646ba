"""What was learnt, where models differ, and what is open: findings as lines of a text, each configuration in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property

from swarm.agents.analysis.analysts.factors import FactorAnalyst
from swarm.agents.analysis.claims import Claim
from swarm.agents.analysis.judge import NOT_REPLICATED, STATUS_ORDER, mixed, ranked, replications
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import config_label
from swarm.agents.history import History
from swarm.memory.records import Finding, FindingRecord

MAX_CAUSES, MAX_FACTORS, MAX_OTHERS, MAX_CONTRASTS, MAX_OPEN, MAX_PLATEAUS = 3, 6, 4, 4, 4, 2
MAX_OF_A_KIND = 3
MAX_REASONS = 2
"""Causes that are named per verdict where models differ."""

MAX_NEXT = 3
"""Findings whose replication is named as what comes next."""

MAX_CLAIMS = 200
"""Claims in the list of all."""


class Learnt:
    """The findings of a campaign by what people want to know of them; those on trials of unequal cost are left out.

    Args:
        findings: those that are told.
        history: the trials that they rest on.
    """

    def __init__(self, findings: Iterable[FindingRecord], history: History) -> None:
        self._history = history
        self._findings = [record for record in findings if self._is_fair(record.finding)]

    def effects(self) -> list[str]:
        """Causes, then what each factor does, then other confirmed findings; the surest and largest first."""
        causes = [r for r in self._of("cause", "confirmed") if len(r.finding.models) == 1][:MAX_CAUSES]
        factors = [r for r in self._standing(*STATUS_ORDER) if is_factor(r.finding) and r.finding.kind != "contrast"]
        known = {record.id for record in [*causes, *factors]}
        rest = [
            r for r in self._standing("confirmed") if r.id not in known and r.finding.kind not in ("contrast", "cause")
        ]
        return self._lines([*causes, *factors[:MAX_FACTORS], *mixed(rest, MAX_OTHERS, MAX_OF_A_KIND)])

    def differences(self) -> list[str]:
        """Where models differ, what each factor does before what configurations do, and what is known about why."""
        differing = [r for r in self._standing("confirmed", "hypothesis") if r.finding.kind == "contrast"]
        factors = [r for r in differing if is_factor(r.finding)][:MAX_CONTRASTS]
        found = [*factors, *[r for r in differing if r not in factors][: max(1, MAX_CONTRASTS - len(factors))]]
        return [*self._lines(found), *self._reasons({model for r in found for model in r.finding.models})]

    def _reasons(self, models: Iterable[str]) -> Iterator[str]:
        """Causes that were tested on these models: between two of them, then on one, by verdict."""
        causes = [r for r in self._findings if r.finding.kind == "cause" and set(r.finding.models) & set(models)]
        between = [r for r in causes if len(r.finding.models) > 1]
        yield from self._lines(ranked(r for r in between if r.finding.status == "confirmed")[:MAX_CAUSES])
        for status in ("hypothesis", "refuted"):
            for record in ranked(r for r in between or causes if r.finding.status == status)[:MAX_REASONS]:
                finding = f"finding:{record.id}"
                yield f"- {{{finding}:says}} As a reason this is {{{finding}:verdict}} ({{{finding}}})."
        if models and not causes:
            yield "- Why they differ is open: no cause was tested."

    def open(self) -> list[str]:
        """Hypotheses and plateaus that are not told above, and what the swarm would measure next."""
        told = [r for r in self._standing("hypothesis") if r.finding.kind != "contrast" and not is_factor(r.finding)]
        plateaus = [r for r in told if r.finding.kind == "plateau"]
        others = mixed([r for r in told if r.finding.kind != "plateau"], MAX_OPEN, MAX_OF_A_KIND)
        return [*self._lines([*others, *ranked(plateaus)[:MAX_PLATEAUS]]), *self._next()]

    def _next(self) -> Iterator[str]:
        ids = {record.finding.key: record.id for record in self._findings}
        wanted = [r.finding for r in self._findings if r.finding.kind not in NOT_REPLICATED]
        asked = dict.fromkeys(ids[finding.key] for finding, _ in replications(wanted, self._history))
        named = ", ".join(f"{{finding:{identity}}}" for identity in list(asked)[:MAX_NEXT])
        if named:
            yield f"- Next the swarm would measure again, on other text windows, the trials of {named}."

    def claims(self) -> list[str]:
        """Every claim with its verdict, as the lines of a table."""
        rows = [
            f"| {{finding:{r.id}}} | {{finding:{r.id}:status}} | {{finding:{r.id}:says}} | {{finding:{r.id}:effect}} |"
            for r in ranked(self._findings)[:MAX_CLAIMS]
        ]
        return ["| claim | verdict | what it says | effect |", "|---|---|---|---|", *rows] if rows else []

    def _of(self, kind: str, *statuses: str) -> list[FindingRecord]:
        return [record for record in self._standing(*statuses) if record.finding.kind == kind]

    def _standing(self, *statuses: str) -> list[FindingRecord]:
        """Findings that stand, each comparison once: a transfer says of its second model what a sensitivity says."""
        distinct: dict[str, FindingRecord] = {}
        for record in ranked(r for r in self._findings if r.finding.status in statuses):
            if record.finding.status != "refuted":
                distinct.setdefault(_compared(record.finding), record)
        return list(distinct.values())

    def _lines(self, records: Sequence[FindingRecord]) -> list[str]:
        return [line for record in records for line in self._line(record)]

    def _line(self, record: FindingRecord) -> Iterator[str]:
        finding = f"finding:{record.id}"
        yield f"- {{{finding}:says}} Measured: {{{finding}:effect}} ({{{finding}}}, {{{finding}:verdict}})."
        for identity in self._configurations(record.finding):
            yield f"    - `{{trial:{identity}:label}}` ({{trial:{identity}}}). {{trial:{identity}:words}}"

    def _configurations(self, finding: Finding) -> list[int]:
        """A trial of each configuration that a statement names, in the order of their names."""
        found = {label: finding.statement.find(label) for label in self._labels if label in finding.statement}
        count = finding.statement.count
        inner = {a for a in found for b in found if a != b and a in b and count(a) == count(b)}
        return [self._labels[label] for label in sorted(found.keys() - inner, key=lambda label: found[label])]

    @cached_property
    def _labels(self) -> Mapping[str, int]:
        """The first finished trial of each label."""
        labels: dict[str, int] = {}
        for record in self._history.completed:
            labels.setdefault(config_label(record.spec), record.id)
        return labels

    def _is_fair(self, finding: Finding) -> bool:
        """Whether a finding compares what costs about the same."""
        claim = Claim.parse(finding.key)
        if claim is None or len(claim.configurations) < 2:
            return True
        for model in claim.models:
            a, b = (self._history.measured.get((model, key)) for key in claim.configurations[:2])
            if a is not None and b is not None and not costs_the_same(a.bits, b.bits):
                return False
        return True


def _compared(finding: Finding) -> str:
    """What a finding compares, on which model; its key where that is all there is to say."""
    claim = Claim.parse(finding.key)
    if claim is None or claim.relation not in ("pair", "transfer"):
        return finding.key
    return ":".join((claim.metric, *claim.configurations, claim.models[-1]))


def is_factor(finding: Finding) -> bool:
    """Whether a finding is on a factor of the designed experiment."""
    return finding.author == FactorAnalyst.name
