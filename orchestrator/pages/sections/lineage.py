"""What came from what: trials to findings, findings to the trials that they led to."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Chart, Columns, Num, Paragraph, Ref, Table
from swarm.orchestrator.pages.entities import status
from swarm.orchestrator.views.source import Source

if TYPE_CHECKING:
    from swarm.memory.records import FindingRecord

TITLE = "Lineage"
PLACE = 90
MAX_FINDINGS = 24
MAX_INFLUENTIAL = 10

_EVIDENCE = """SELECT e.finding_id AS finding, t.id AS trial, t.number FROM evidence e
JOIN findings f ON f.id = e.finding_id JOIN trials t ON t.id = e.trial_id
WHERE f.campaign_id = {campaign} AND e.since = 1 ORDER BY e.finding_id, t.number"""

_LED = """SELECT pp.finding_id AS finding, t.id AS trial, t.number FROM proposal_parents pp
JOIN findings f ON f.id = pp.finding_id JOIN proposals p ON p.id = pp.proposal_id JOIN trials t ON t.id = p.trial_id
WHERE f.campaign_id = {campaign} ORDER BY pp.finding_id, t.number"""

TrialLinks = Mapping[int, Sequence[tuple[int, int]]]
"""Finding to trials, each with its id and number."""


def blocks(source: Source) -> Sequence[Block]:
    """The graph of the findings with most consequences, and the influential ones as a table."""
    evidence, led = _links(source.rows(_EVIDENCE)), _links(source.rows(_LED))
    known = {record.id: record for record in source.findings}
    chosen = sorted((i for i in evidence if i in known), key=lambda i: (-len(led.get(i, ())), -len(evidence[i]), i))
    if not chosen:
        return []
    chosen = chosen[:MAX_FINDINGS]
    text = (
        "Trials stand along the bottom in the order of their proposal. A grey line leads from a trial to a finding "
        "that it is evidence of, an orange line from a finding to a trial that it led to."
    )
    if len(evidence) > len(chosen):
        text += f" Shown are the {len(chosen)} findings of {len(evidence)} with most consequences."
    chart = _chart([known[i] for i in sorted(chosen)], evidence, led)
    return [Paragraph(text), chart, *_influential(source, known)]


def _links(rows: Sequence[dict[str, Any]]) -> TrialLinks:
    found: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in rows:
        found[int(row["finding"])].append((int(row["trial"]), int(row["number"])))
    return found


def _chart(findings: Sequence[FindingRecord], evidence: TrialLinks, led: TrialLinks) -> Chart:
    height = {record.id: 1 + place for place, record in enumerate(findings)}
    x = {record.id: max(number for _, number in evidence[record.id]) for record in findings}
    grey = [(number, 0, x[i], height[i]) for i in height for _, number in evidence[i]]
    orange = [(x[i], height[i], number, 0) for i in height for _, number in led.get(i, ())]
    trials = dict(sorted({number: trial for i in height for trial, number in (*evidence[i], *led.get(i, ()))}.items()))
    traces = [_lines("is evidence of", grey, charts.GREY, 0.35), _lines("led to", orange, charts.ORANGE, 0.9)]
    traces.append(
        charts.points(
            "trial",
            list(trials),
            [0.0] * len(trials),
            colour=charts.BLUE,
            texts=[f"trial {trial}" for trial in trials.values()],
            ids=list(trials.values()),
        )
    )
    for name, colour in charts.STATUSES.items():
        mine = [record for record in findings if record.finding.status == name]
        if mine:
            texts = [f"finding {record.id}: {record.finding.statement}" for record in mine]
            at, up = [x[r.id] for r in mine], [height[r.id] for r in mine]
            marker = {"color": colour, "symbol": "square", "size": 10}
            traces.append(charts.points(f"finding, {name}", at, up, texts=texts, marker=marker))
    ticks = {"tickvals": [0, *height.values()], "ticktext": ["trials", *(f"finding {i}" for i in height)]}
    count = sum(len(led.get(i, ())) for i in height)
    return Chart(
        "From trials to findings and back",
        f"{len(findings)} findings rest on {len(grey)} links to trials and led to {count} further trials.",
        traces,
        charts.layout(
            charts.axis("number of the trial"),
            charts.axis("", showgrid=False, zeroline=False, **ticks),
            180 + 17 * len(findings),
        ),
        Table.of(
            "Findings with what they rest on and led to",
            height,
            {
                "Finding": lambda i: Ref("finding", i),
                "Rests on trials": lambda i: ", ".join(str(trial) for trial, _ in evidence[i]),
                "Led to trials": lambda i: ", ".join(str(trial) for trial, _ in led.get(i, ())),
            },
            folded=True,
        ),
    )


def _lines(
    name: str, pairs: Sequence[tuple[float, float, float, float]], colour: str, opacity: float
) -> dict[str, Any]:
    """Line segments as one series with gaps."""
    x: list[float | None] = []
    y: list[float | None] = []
    for x0, y0, x1, y1 in pairs:
        x += [x0, x1, None]
        y += [y0, y1, None]
    line = {"color": colour, "width": 1}
    return charts.points(name, x, y, colour=colour, mode="lines", line=line, opacity=opacity, hoverinfo="skip")


def _influential(source: Source, known: Mapping[int, FindingRecord]) -> list[Table]:
    if source.total > source.bounds.trials:
        return []
    from swarm.memory import lineage

    found = [
        each
        for each in lineage.influential(lineage.graph(source.store, source.campaign.id), MAX_INFLUENTIAL)
        if each.finding_id in known and each.trials
    ]
    columns: Columns = {
        "Finding": lambda each: Ref("finding", each.finding_id),
        "Status": lambda each: status(known[each.finding_id].finding.status),
        "Statement": lambda each: each.statement,
        Num("Trials"): lambda each: each.trials,
        Num("Findings"): lambda each: each.findings,
    }
    return [Table.of("What most trials and findings descend from", found, columns)] if found else []
