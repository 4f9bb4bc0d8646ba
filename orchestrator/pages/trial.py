"""A trial's page: what was run and why, what came out, and everything needed to run it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from math import isfinite
from typing import TYPE_CHECKING

from swarm.experiments import edits
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import (
    Block,
    Cell,
    Chart,
    Charts,
    Code,
    Columns,
    Facts,
    Interval,
    Num,
    Page,
    PagePart,
    Paragraph,
    Ref,
    RefKind,
    Refs,
    Table,
    Tag,
)  # fmt: skip
from swarm.orchestrator.pages.entities import VERDICT_TONES, claim, crumbs, metric, moment, status, trial_state
from swarm.orchestrator.pages.sections.environment import facts
from swarm.orchestrator.views.source import PAGE, Source, TooMuchError
from swarm.orchestrator.views.trials import OUTDATED, layers

if TYPE_CHECKING:
    from swarm.experiments.spec import Metric
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

MAX_LINKS = 60
HEADS = "layer_head_g"

_CITING = """SELECT DISTINCT f.id, f.kind, f.status, f.statement FROM evidence e JOIN findings f ON f.id = e.finding_id
WHERE e.trial_id = {trial} ORDER BY f.id"""
_SCORE = "SELECT observed, low, high FROM predictions WHERE trial_id = {trial}"
_MEASURED_BY = "SELECT trial_id AS id FROM predictions WHERE reference_id = {trial} ORDER BY trial_id"
_SUMMARIES = "SELECT summary_id AS id FROM summary_evidence WHERE trial_id = {trial} ORDER BY summary_id"
_TWINS = """SELECT b.id, b.model, b.protocol, b.rung, b.replicate, b.kld, b.state FROM trials a
JOIN trials b ON b.configuration_id = a.configuration_id AND b.id <> a.id
WHERE a.id = {trial} AND +b.campaign_id = a.campaign_id ORDER BY b.model, b.rung, b.id"""


def page(store: Store, identity: int) -> Page:
    """The page of a trial.

    Raises:
        UnknownNameError: there is none.
    """
    record = store.trials.get(identity)
    campaign = store.campaigns.get(record.campaign_id)
    source = Source(store, campaign, PAGE)
    parts = [
        PagePart("trial", "What was run", [_what(record, campaign.name), *_why(record, source)]),
        PagePart("results", "What came out", _results(record)),
        PagePart("reproduce", "Run it again", _again(record, store.place)),
        PagePart("links", "Where it leads", _links(record, source)),
    ]
    subtitle = f"{record.spec.label} on {record.spec.model}"
    above = crumbs(campaign, place="trials")
    return Page(f"Trial {record.id}", [part for part in parts if part.blocks], subtitle, above)


def _what(record: TrialRecord, campaign: str) -> Facts:
    spec = record.spec
    return Facts(
        {
            "State": trial_state(record),
            "Outdated": f"It {OUTDATED}." if record.outdated else None,
            "Message": record.message,
            "Model": spec.model,
            "Engine" if spec.engine else "Cache": spec.label,
            "Layers": layers(spec.layers),
            "Protocol": f"{spec.protocol}, rung {spec.rung}, context {spec.context:,}, replicate {spec.replicate}",
            "Logit gain": spec.logit_gain if spec.logit_gain != 1 else None,
            "Weights edited": edits.label(spec.edits) or None,
            "Campaign": Ref("campaign", record.campaign_id, campaign),
            "Number": f"{record.number} of the campaign",
            "Took": f"{record.seconds:.2f} s, {record.attempts} attempt{'s' * (record.attempts != 1)}",
            "Finished": moment(record.finished_at),
            "Scored": record.notes,
        }
    )


def _why(record: TrialRecord, source: Source) -> list[Block]:
    found: list[Block] = [
        Facts(
            {
                "Proposed by": f"{record.proposer}, {record.arm} arm",
                "Rationale": record.rationale,
                "Built on": Refs(tuple(Ref("finding", i) for i in record.parents), MAX_LINKS)
                if record.parents
                else None,
            }
        )
    ]
    if record.prediction is not None:
        (scored,) = source.rows(_SCORE, 1, trial=record.id)
        observed = None if scored["observed"] is None else f"{scored['observed']:.4g}"
        if None not in (scored["low"], scored["high"]):
            observed = f"{observed} [{scored['low']:.4g}, {scored['high']:.4g}]"
        reference = record.prediction.reference
        verdict = record.verdict or "open"
        found.append(
            Facts(
                {
                    "Predicted": claim(record.prediction),
                    "Reference": Ref("trial", reference) if reference is not None else None,
                    "Observed": observed,
                    "Verdict": Tag(verdict, VERDICT_TONES[verdict]),
                }
            )
        )
    return found


def _results(record: TrialRecord) -> list[Block]:
    if not record.metrics:
        return [Paragraph("Nothing was measured.")]
    columns: Columns = {
        "Metric": lambda found: found.name,
        Num("Value, 95% interval"): lambda found: _span(record, found),
        Num("Std. error"): lambda found: found.stderr,
        Num("n"): lambda found: found.n,
        "Unit": lambda found: found.unit,
    }
    blocks: list[Block] = [Table.of("Metrics", record.metrics.values(), columns)]
    figures = [*_per_layer(record), *_per_head(record), *_per_window(record)]
    return [*blocks, Charts(figures)] if figures else blocks


def _span(record: TrialRecord, found: Metric) -> Interval | float:
    """A metric with its interval; its unit has a column of its own."""
    span = metric(record, found.name)
    return found.value if span is None or span.low == span.high else replace(span, unit="")


def _series(record: TrialRecord, prefix: str) -> dict[str, list[float]]:
    found = {name.removeprefix(prefix): list(v) for name, v in record.arrays.items() if name.startswith(prefix)}
    return {name: values for name, values in found.items() if len(values) > 1 and all(map(isfinite, values))}


def _per_layer(record: TrialRecord) -> Iterator[Chart]:
    series = _series(record, "layer_")
    series.pop(HEADS.removeprefix("layer_"), None)
    places = {name: list(record.spec.layers or range(len(values))) for name, values in series.items()}
    places = {name: x if len(x) == len(series[name]) else list(range(len(series[name]))) for name, x in places.items()}
    if series:
        yield _lines("Per layer", "layer", places, series)


def _per_window(record: TrialRecord) -> Iterator[Chart]:
    series = {name: v for name, v in _series(record, "window_").items() if all(value > 0 for value in v)}
    if series:
        places = {name: list(range(len(values))) for name, values in series.items()}
        yield _lines("Per text window", "window", places, series)


def _lines(title: str, what: str, x: dict[str, list[int]], series: dict[str, list[float]]) -> Chart:
    traces = [
        charts.points(
            name,
            x[name],
            [value if value > 0 else None for value in values],
            **charts.style(index),
            mode="lines+markers",
            texts=[f"{name}, {what} {place}: {value:.4g}" for place, value in zip(x[name], values, strict=True)],
        )
        for index, (name, values) in enumerate(series.items())
    ]
    every = [value for values in series.values() for value in values]
    places = sorted({place for found in x.values() for place in found})
    rows: list[list[Cell]] = [
        [place, *(dict(zip(x[name], series[name], strict=True)).get(place) for name in series)] for place in places
    ]
    return Chart(
        title,
        f"{', '.join(series)} over {len(places)} {what}s, from {min(every):.3g} to {max(every):.3g}.",
        traces,
        charts.layout(charts.whole_axis(what, places), charts.log_axis("", every)),
        Table(f"{title}, numbers", [Num(what), *map(Num, series)], rows, folded=True),
    )


def _per_head(record: TrialRecord) -> Iterator[Chart]:
    flat, means = record.arrays.get(HEADS, ()), record.arrays.get("layer_g", ())
    if not means or len(flat) % len(means) or len(flat) == len(means):
        return
    heads = len(flat) // len(means)
    where = record.spec.layers or tuple(range(len(means)))
    z: list[list[float | None]] = [[flat[row * heads + head] for row in range(len(means))] for head in range(heads)]
    figure = charts.heat(where, [f"head {head}" for head in range(heads)], z, "logits")
    yield Chart(
        "G by layer and query head",
        f"G of {heads} query heads in {len(means)} layers, from {min(flat):.3g} to {max(flat):.3g}.",
        [figure],
        charts.layout(
            charts.axis("", automargin=False), charts.axis("", type="category"), 180 + 16 * heads, margin={"b": 30}
        ),
    )


def _again(record: TrialRecord, place: str) -> list[Block]:
    where = f" --store {shlex.quote(place)}"
    commands = [f"swarm reproduce {record.id}{where}"]
    if record.state == "complete" and "kld" in record.metrics:
        commands.append(f"swarm recipe {record.id}{where} > best.json")
    text = json.dumps(record.spec.model_dump(mode="json"), indent=1, ensure_ascii=False)
    environment = record.environment.model_dump(mode="json") if record.environment else {}
    return [
        Facts({"Commands": Code("\n".join(commands), block=True), "Specification": Code(text, block=True)}),
        Facts({"Fingerprint": Code(record.fingerprint), "Owner": record.owner, **facts(environment)}),
    ]


def _links(record: TrialRecord, source: Source) -> list[Block]:
    blocks: list[Block] = []
    for read in (_citing, _twins, _referring, _events):
        try:
            blocks += read(record, source)
        except TooMuchError as error:
            blocks.append(Paragraph(str(error), "warn"))
    return blocks


def _citing(record: TrialRecord, source: Source) -> Iterator[Block]:
    columns: Columns = {
        "Finding": lambda row: Ref("finding", row["id"], f"{row['id']} {row['kind']}"),
        "Status": lambda row: status(row["status"]),
        "Statement": "statement",
    }
    citing = source.rows(_CITING, MAX_LINKS, trial=record.id)
    if citing:
        yield Table.of("It is evidence of", citing, columns)


def _twins(record: TrialRecord, source: Source) -> Iterator[Block]:
    columns: Columns = {
        "Trial": lambda row: Ref("trial", row["id"]),
        "Model": "model",
        "Protocol": "protocol",
        Num("Rung"): "rung",
        Num("Replicate"): "replicate",
        Num("KLD"): "kld",
        "State": "state",
    }
    twins = source.rows(_TWINS, MAX_LINKS, trial=record.id)
    if twins:
        yield Table.of("The same configuration elsewhere", twins, columns)


def _referring(record: TrialRecord, source: Source) -> Iterator[Block]:
    def ids(sql: str) -> list[int]:
        return [row["id"] for row in source.rows(sql, MAX_LINKS, trial=record.id)]

    others: dict[str, Cell] = {
        "Measure of predictions": _links_to("trial", ids(_MEASURED_BY)),
        "Cited in": _links_to("summary", ids(_SUMMARIES)),
    }
    if any(others.values()):
        yield Facts(others)


def _events(record: TrialRecord, source: Source) -> Iterator[Block]:
    events = source.store.events.list(trial_id=record.id, limit=MAX_LINKS)
    if events:
        columns: Columns = {
            "When": lambda event: moment(event.created_at),
            "What": lambda event: event.kind,
            "Message": lambda event: event.message,
        }
        yield Table.of("What happened to it", events, columns)


def _links_to(kind: RefKind, ids: Iterable[int]) -> Refs | None:
    refs = tuple(Ref(kind, identity) for identity in ids)
    return Refs(refs, MAX_LINKS) if refs else None
