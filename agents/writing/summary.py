"""Writes summaries for people. Every number is a reference that is resolved from the store when it is shown."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.agents.analysis.speed import front, timed_results
from swarm.agents.generation.nodes.long_context import LongContextNode
from swarm.agents.history import History
from swarm.agents.published_claims.plan import AUTHOR as AGENDA
from swarm.agents.settings import AgentSettings
from swarm.agents.writing import flags
from swarm.agents.writing.checks import problems
from swarm.agents.writing.learnt import Learnt
from swarm.agents.writing.references import PATTERN, Resolver
from swarm.agents.writing.use import advice, fronts, untested
from swarm.experiments.measurement.kernel_time import HALF_PRECISION, MICROSECONDS
from swarm.memory.records import FindingRecord, Summary

AUTHOR = "scribe"
TITLE = "What the swarm found"
ASK = "`swarm recommend` chooses for other limits, with what it expects to lose and the runner-up."
APPENDIX = "Appendix:"
"""What the headings behind the text for people begin with."""
ANSWERED = (
    ("retrieval", ("kept",), "the share of answers kept is {}"),
    (
        "generation",
        ("tokens_until_parting", "kld"),
        "it writes {} tokens as the unquantized run does, and the KLD along that run's answers is {}",
    ),
)
"""Protocol, metrics and words for what a finalist loses in answers."""


def summarise(
    history: History,
    models: Iterable[str],
    settings: AgentSettings,
    words: str = "",
    remarks: Sequence[str] = (),
) -> Summary:
    """A markdown summary of the trials and the stored findings of a history, model by model in that order.

    `words` are sentences of an LLM, left out when they do not pass `checks` any more; `remarks` what else people must
    know about the published claims.
    """
    models, resolver = tuple(models), Resolver(history, settings)
    learnt = Learnt((f for f in history.findings if f.finding.author != AGENDA), history)
    sections = [
        "{fact:trials.complete} trials completed, {fact:trials.failed} failed. "
        "{fact:findings.confirmed} findings are confirmed by replication, {fact:findings.hypothesis} are open, "
        "{fact:findings.refuted} are refuted.",
        _section("What to use", advice(models, history, settings), ASK),
        _section("Which flags to use", flags.advice(models, history, settings)),
        _section("What was learnt", learnt.effects()),
        f"## In words\n\n{words}" if words and not problems(words, resolver) else "",
        _section("Where models differ, and why", learnt.differences()),
        _published(history.findings, remarks),
        _section(
            "At long contexts",
            [line for model in models for lines in (_curves, _answers) for line in lines(model, history)],
        ),
        _section("Speed beside quality", [line for model in models for line in _speed(model, history)]),
        _section("What is open, and what comes next", [*learnt.open(), *untested(models, history)]),
        _control(resolver),
        _section(f"{APPENDIX} the front of each model", fronts(models, history)),
        _section(f"{APPENDIX} the front of each model under the engine", flags.fronts(models, history, settings)),
        _section(f"{APPENDIX} claims and their verdicts", learnt.claims()),
        _section(f"{APPENDIX} predictions registered before their trials", list(_predictions(resolver))),
    ]
    text = f"# {TITLE}\n\n" + "\n\n".join(section for section in sections if section) + "\n"
    return Summary(title=TITLE, text=text, evidence=evidence_of(text, history), author=AUTHOR)


def body(text: str) -> str:
    """The part of a summary's text that is for reading, without its appendices."""
    return text.partition(f"\n## {APPENDIX}")[0]


def _section(head: str, lines: Sequence[str], end: str = "") -> str:
    return f"## {head}\n\n" + "\n".join(lines) + (f"\n\n{end}" if end else "") if lines else ""


def _published(findings: Sequence[FindingRecord], remarks: Sequence[str]) -> str:
    """The verdicts on published claims, claim by claim; all of them, the undecided ones too."""
    claims: dict[str, list[FindingRecord]] = defaultdict(list)
    for record in findings:
        if record.finding.author == AGENDA:
            claims[record.finding.key.split(":")[2]].append(record)
    lines = []
    for cases in claims.values():
        lines.append(f"- {{finding:{cases[0].id}:claim}}.")
        lines += [
            f"    - {{finding:{c.id}:verdict}} on {' against '.join(c.finding.models)} "
            f"({{finding:{c.id}:size}}, {{finding:{c.id}}})."
            for c in cases
        ]
    return _section("The agenda's claims", [*lines, *(f"- {remark}" for remark in remarks)])


def _curves(model: str, history: History) -> Iterator[str]:
    """Whether the finalist that is best at the shortest context is best at the longest, with every curve."""
    curves = list(results.pool(history.select(model=model, protocol="context"), protocol="context").values())
    curves = [curve for curve in curves if len(_contexts(curve)) > 1]
    if not curves:
        return
    answers = results.pool(history.select(model=model, protocol="retrieval"), "kept", "retrieval")
    kept = {result.spec.kv: result.records[0].id for result in answers.values()}
    short, long = (
        min(curves, key=lambda curve, at=at: curve.records[0].metrics[_contexts(curve)[at]].value)  # type: ignore[misc]
        for at in (0, -1)
    )
    if len(curves) > 1:
        first, last = (f"trial:{curve.records[0].id}" for curve in (short, long))
        verdict = (
            "leads at the longest too" if short is long else f"does not lead at the longest, {{{last}:label}} does"
        )
        yield f"- {{{first}:model}}: what leads at the shortest context, {{{first}:label}}, {verdict}."
    for curve in sorted(curves, key=lambda curve: curve.bits or 0.0):
        trial = f"trial:{curve.records[0].id}"
        points = " to ".join(f"{{{trial}:{name}}}" for name in _contexts(curve))
        answered = kept.get(curve.spec.kv)
        share = f" Its share of answers kept is {{trial:{answered}:kept}}." if answered is not None else ""
        yield (
            f"- {{{trial}:model}}, `{{{trial}:label}}`: KLD {points} from the shortest context to one of "
            f"{{{trial}:context}} tokens ({{{trial}}}).{share} {{{trial}:words}}"
        )


def _answers(model: str, history: History) -> Iterator[str]:
    """What finalists lose in answers, where no line of `_curves` says so."""
    curves = {record.spec.kv for record in history.select(model=model, protocol="context")}
    for protocol, metrics, said in ANSWERED:
        for record in history.select(model=model, protocol=protocol):
            told = protocol == "retrieval" and record.spec.kv in curves
            if record.proposer == LongContextNode.name and record.metrics.keys() >= set(metrics) and not told:
                trial = f"trial:{record.id}"
                values = said.format(*(f"{{{trial}:{metric}}}" for metric in metrics))
                yield (
                    f"- {{{trial}:model}}, `{{{trial}:label}}`, at {{{trial}:context}} tokens: {values} ({{{trial}}})."
                )


def _speed(model: str, history: History) -> Iterator[str]:
    """The fastest and the best of the configurations that no other beats in KLD, bits and measured time."""
    found = front(timed_results(history.records, model))
    best = min(found, key=lambda one: one.objectives, default=None)
    for one, which in ((found[0], "fastest"), (best, "best")) if best is not None else ():
        if which == "best" and one is found[0]:
            continue
        trial, timing = f"trial:{one.result.records[0].id}", f"trial:{one.timing.id}"
        ours, theirs = (f"{{{timing}:{name}_at_{one.context}}}" for name in (MICROSECONDS, HALF_PRECISION))
        yield (
            f"- {{{trial}:model}}, the {which} of what nothing beats in loss, bits and time: `{{{trial}:label}}`. "
            f"It takes {ours} us per step and layer at the longest context timed, 16 bit {theirs} ({{{timing}}}). "
            f"KLD {{{trial}:kld}} at {{{trial}:bits_per_value}} bits ({{{trial}}})."
        )


def _contexts(curve: ConfigResult) -> list[str]:
    """Names of the metrics of a curve, the shortest context first."""
    names = [name for name in curve.records[0].metrics if name.startswith("kld_at_")]
    return sorted(names, key=lambda name: int(name.removeprefix("kld_at_")))


def _predictions(resolver: Resolver) -> Iterator[str]:
    for name in (name.removesuffix(".scored") for name in sorted(resolver.facts) if name.endswith(".scored")):
        line = (
            f"- {name.removeprefix('predictions.')}: {{fact:{name}.scored}} scored, {{fact:{name}.confirmed}} "
            f"confirmed, {{fact:{name}.refuted}} refuted, {{fact:{name}.inconclusive}} inconclusive"
        )
        if resolver.facts[f"{name}.transfers"]:
            line += f"; of {{fact:{name}.transfers}} lessons of another model that were decided, "
            line += f"{{fact:{name}.transfer_hits}} held"
        yield f"{line}."


def _control(resolver: Resolver) -> str:
    facts = resolver.facts
    if "control.gain" not in facts:
        text = "Too few trials in one of the arms to tell."
    else:
        verdict = "Nothing that can be told from chance"
        if facts["control.gain.low"] > 0:
            verdict = "The agents added to what random search and plain TPE found"
        elif facts["control.gain.high"] < 0:
            verdict = "The control arm of random search and plain TPE came out ahead"
        text = (
            f"{verdict}: dominated share of the feasible region {{fact:control.gain}} "
            "[{fact:control.gain.low}, {fact:control.gain.high}], at equal numbers of trials."
        )
    return _section("What the agents added to the control arm", [text])


def evidence_of(text: str, history: History) -> tuple[int, ...]:
    """The trials that the references of a text rest on."""
    findings = {record.id: record.finding for record in history.findings}
    ids: set[int] = set()
    for kind, reference in PATTERN.findall(text):
        identity = reference.partition(":")[0]
        if kind == "trial" and identity.isdecimal():
            ids.add(int(identity))
        if kind == "finding" and identity.isdecimal() and int(identity) in findings:
            ids.update(findings[int(identity)].evidence)
    return tuple(sorted(ids & {r.id for r in history.records if r.state in ("complete", "failed")}))
