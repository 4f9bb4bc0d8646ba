"""Writes summaries for people. Every number is a reference that is resolved from the store when it is shown.

The built-in scribe; knows what is worth telling, not how references are resolved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.agents.analysis import pareto, results
from swarm.agents.analysis.judge import mixed, ranked
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import PATTERN, Resolver
from swarm.memory.records import FindingRecord, Summary

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

NAME = "scribe"
AGENDA = "agenda"
MOST_POINTS = 4
"""Configurations shown per model."""

MOST_CONFIRMED, MOST_OPEN, MOST_STANDING = 7, 4, 2
OF_A_KIND = 3

OPEN = "hypothesis"


@dataclass(frozen=True)
class Scribe:
    """The built-in summary of a campaign."""

    infos: Mapping[str, ModelInfo]
    settings: AgentSettings

    def summarise(
        self,
        history: History,
        words: str = "",
        remarks: Sequence[str] = (),
        title: str = "What the swarm found",
    ) -> Summary:
        """A markdown summary of the trials and the stored findings of a history.

        Args:
            history: trials and findings.
            words: sentences of another mind that passed `validation` and do so still.
            remarks: what else people must know about the agenda.
            title: the heading.
        """
        resolver = Resolver(history, self.settings)
        sections = [
            self._counts(),
            f"## In words\n\n{words}" if words and not problems(words, resolver) else "",
            *self._agenda(history.findings, remarks),
            *self._findings(history.findings),
            *self._best(history),
            *self._predictions(resolver),
            self._control(resolver),
        ]
        text = f"# {title}\n\n" + "\n\n".join(section for section in sections if section) + "\n"
        return Summary(title=title, text=text, evidence=evidence_of(text, history), author=NAME)

    @staticmethod
    def _counts() -> str:
        return (
            "{fact:trials.complete} trials completed, {fact:trials.failed} failed. "
            "{fact:findings.confirmed} findings are confirmed by replication, {fact:findings.hypothesis} are open, "
            "{fact:findings.refuted} are refuted."
        )

    def _best(self, history: History) -> Iterator[str]:
        """The Pareto front of the highest rung that each model has, as one table."""
        rows = [row for model in self.infos for row in self._of_model(model, history)]
        if rows:
            yield (
                "## The front of each model\n\n| model | bits/value | KLD | configuration | measured by |\n"
                + "\n".join(["|---|---|---|---|---|", *rows])
            )

    @staticmethod
    def _of_model(model: str, history: History) -> Iterator[str]:
        pooled = results.pool(history.select(model=model, protocol="quality"))
        cells = [cell for cell in pooled.values() if cell.bits is not None]
        rung = max((cell.spec.rung for cell in cells), default=0)
        cells = [cell for cell in cells if cell.spec.rung == rung]
        how = "cheap rung" if rung == 0 else "full rung"
        front = pareto.front([(cell.level, cell.bits or 0.0) for cell in cells])
        for index in _spread(front, MOST_POINTS):
            trial = f"trial:{cells[index].records[0].id}"
            yield (
                f"| {{{trial}:model}} | {{{trial}:bits_per_value}} | {{{trial}:kld}} | {{{trial}:label}} "
                f"| {{{trial}}}, {how} |"
            )

    @staticmethod
    def _findings(findings: Sequence[FindingRecord]) -> Iterator[str]:
        mine = [f for f in findings if f.finding.author != AGENDA]
        moving = [f for f in mine if f.finding.kind != "plateau"]
        standing = [f for f in mine if f.finding.kind == "plateau" and f.finding.status == OPEN]
        confirmed = [f for f in moving if f.finding.status == "confirmed"]
        of_open = [f for f in moving if f.finding.status == OPEN]
        for head, chosen in (
            ("Confirmed: held on other text and seeds", mixed(confirmed, MOST_CONFIRMED, OF_A_KIND)),
            ("Hypotheses: seen, not replicated yet", mixed(of_open, MOST_OPEN, OF_A_KIND)),
            ("Where the search stands still", ranked(standing)[:MOST_STANDING]),
        ):
            if chosen:
                lines = [
                    f"- {{finding:{f.id}:statement}} {{finding:{f.id}:effect}} ({{finding:{f.id}}})" for f in chosen
                ]
                yield f"## {head}\n\n" + "\n".join(lines)

    @staticmethod
    def _agenda(findings: Sequence[FindingRecord], remarks: Sequence[str]) -> Iterator[str]:
        """The verdicts on published claims, claim by claim; all of them, the undecided ones too."""
        claims: dict[str, list[FindingRecord]] = defaultdict(list)
        for record in findings:
            if record.finding.author == AGENDA:
                claims[record.finding.key.split(":")[2]].append(record)
        lines = []
        for cases in claims.values():
            verdicts = [
                f"{{finding:{c.id}:verdict}} on {' against '.join(c.finding.models)} "
                f"({{finding:{c.id}:size}}, {{finding:{c.id}}})"
                for c in cases
            ]
            lines.append(f"- {{finding:{cases[0].id}:claim}}: {', '.join(verdicts)}.")
        lines += [f"- {remark}" for remark in remarks]
        if lines:
            yield "## The agenda's claims\n\n" + "\n".join(lines)

    @staticmethod
    def _predictions(resolver: Resolver) -> Iterator[str]:
        names = [name.removesuffix(".scored") for name in sorted(resolver.facts) if name.endswith(".scored")]
        lines = [
            f"- {name.removeprefix('predictions.')}: {{fact:{name}.scored}} scored, {{fact:{name}.confirmed}} "
            f"confirmed, {{fact:{name}.refuted}} refuted, {{fact:{name}.inconclusive}} inconclusive"
            + (
                f"; of {{fact:{name}.transfers}} lessons of another model that were decided, "
                f"{{fact:{name}.transfer_hits}} held."
                if resolver.facts[f"{name}.transfers"]
                else "."
            )
            for name in names
        ]
        if lines:
            yield "## Predictions registered before their trials\n\n" + "\n".join(lines)

    @staticmethod
    def _control(resolver: Resolver) -> str:
        head = "## What the agents added to the control arm\n\n"
        facts = resolver.facts
        if "control.gain" not in facts:
            return head + "Too few trials in one of the arms to tell."
        if facts["control.gain.low"] > 0:
            verdict = "The agents added to what random search and plain TPE found"
        elif facts["control.gain.high"] < 0:
            verdict = "The control arm of random search and plain TPE came out ahead"
        else:
            verdict = "Nothing that can be told from chance"
        return head + (
            f"{verdict}: dominated share of the feasible region {{fact:control.gain}} "
            "[{fact:control.gain.low}, {fact:control.gain.high}], at equal numbers of trials."
        )


def accept(summary: Summary, resolver: Resolver) -> list[str]:
    """Why a summary is refused, one line per sentence; empty when it may be stored."""
    return [f"{problem.reason} ({problem.sentence})" for problem in problems(summary.text, resolver)]


def evidence_of(text: str, history: History) -> tuple[int, ...]:
    """The trials that the references of a text rest on."""
    findings = {record.id: record.finding for record in history.findings}
    ids: set[int] = set()
    for match in PATTERN.finditer(text):
        identity = match.group(2).partition(":")[0]
        if match.group(1) == "trial" and identity.isdecimal():
            ids.add(int(identity))
        if match.group(1) == "finding" and identity.isdecimal() and int(identity) in findings:
            ids.update(findings[int(identity)].evidence)
    finished = {record.id for record in history.records if record.state in ("complete", "failed")}
    return tuple(sorted(ids & finished))


def _spread(items: Sequence[int], most: int) -> Iterable[int]:
    """At most so many items, evenly, both ends included."""
    if len(items) <= most:
        return items
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]
