"""What the agents add to random search and plain TPE, over the budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import log10
from statistics import fmean
from typing import Any, NamedTuple

from swarm.orchestrator.monitor.progress import TARGET_BITS
from swarm.orchestrator.pages import charts
from swarm.orchestrator.pages.blocks import Block, Cell, Chart, Charts, Num, Paragraph, Ref, Table
from swarm.orchestrator.views.source import Source, TooMuchError

TITLE = "Agents against the control arm"
PLACE = 50
Point = tuple[float, float]

_TRIALS = """SELECT id, number, model, arm, kld, bits_per_value, configuration FROM trials
WHERE campaign_id = {campaign} AND protocol = 'quality' AND rung = 0 AND replicate = 0
    AND state IN ('complete', 'failed')
ORDER BY number"""

_CREDIT = """SELECT proposer, arm, trials, failed, on_front, worker_seconds FROM agent_credit
WHERE campaign_id = {campaign} ORDER BY on_front DESC, trials DESC"""


class Step(NamedTuple):
    """An arm on one model after one of its trials: the dominated share, and the lowest KLD at the target."""

    trial: int
    text: str
    volume: float
    best: float | None


def blocks(source: Source) -> Sequence[Block]:
    """Curves over the number of trials of each arm, the gain with its interval, and who found what."""
    rows = source.rows(_TRIALS)
    runs = _runs(rows, source)
    credit = source.rows(_CREDIT)
    if not credit:
        return []
    found: list[Block] = [_gain(source)]
    if any(arm == "control" for _, arm in runs):
        found.append(Charts([_volumes(runs), *_best(runs)]))
    table = Table.of(
        "Who proposed what stands on a Pareto front now",
        credit,
        {
            "Proposer": "proposer",
            "Arm": "arm",
            Num("Trials"): "trials",
            Num("Failed"): "failed",
            Num("On a front"): "on_front",
            Num("Share"): lambda row: f"{row['on_front'] / row['trials']:.0%}" if row["trials"] else None,
            Num("Worker time, s"): "worker_seconds",
        },
    )
    return [*found, table]


def _gain(source: Source) -> Paragraph:
    from swarm.agents.analysis import control_arm

    try:
        effect = control_arm.gain(source.history.records, source.settings)
    except TooMuchError as error:
        return Paragraph(str(error), "warn")
    if effect is None:
        return Paragraph(
            f"Too few trials in one of the arms to compare them: {control_arm.MIN_TRIALS} per model are needed."
        )
    verdict = "nothing that can be told from chance"
    if effect.low > 0:
        verdict = "the agents added to what the control arm found"
    elif effect.high < 0:
        verdict = "the control arm came out ahead"
    return Paragraph(
        f"At equal numbers of trials, {verdict}: the agents' arm dominates {effect.value:+.3g} of the feasible region "
        f"more than the control arm [{effect.low:.3g}, {effect.high:.3g}], 95% bootstrap interval over trials.",
        "good" if effect.low > 0 else "plain",
    )


def _runs(rows: Sequence[dict[str, Any]], source: Source) -> dict[tuple[str, str], list[Step]]:
    """The runs of the arms by model and arm; each starts from the default configurations."""
    from swarm.agents.analysis.pareto import LOWEST, box, hypervolume
    from swarm.memory.front import pareto_front

    reference, area = box(source.settings)
    found: dict[tuple[str, str], list[Step]] = {}
    for model in source.models:
        mine = [row for row in rows if row["model"] == model]
        for arm in ("agents", "control"):
            run: list[Step] = []
            points: list[Point] = []
            best: float | None = None
            volume = 0.0
            of_arm = [row for row in mine if row["arm"] in ("defaults", arm)]
            for row in sorted(of_arm, key=lambda row: row["arm"] != "defaults"):
                if row["kld"] is not None and row["bits_per_value"] is not None:
                    point = (max(LOWEST, log10(max(row["kld"], 1e-12))), row["bits_per_value"])
                    points = [[*points, point][i] for i in pareto_front([*points, point])]
                    volume = hypervolume(points, reference) / area
                    if row["bits_per_value"] <= TARGET_BITS and (best is None or row["kld"] < best):
                        best = row["kld"]
                if row["arm"] != "defaults":
                    run.append(Step(row["id"], f"trial {row['id']}: {row['configuration']}", volume, best))
            if run:
                found[model, arm] = run
    return found


def _volumes(runs: dict[tuple[str, str], list[Step]]) -> Chart:
    arms: dict[str, list[list[float]]] = defaultdict(list)
    for (_, arm), run in runs.items():
        arms[arm].append([step.volume for step in run])
    traces, told = [], []
    table: list[list[Cell]] = []
    for arm, curves in arms.items():
        colour, _ = charts.ARMS[arm]
        mean = [fmean(values) for values in zip(*curves, strict=False)]  # as far as every model has trials
        x = list(range(1, len(mean) + 1))
        traces.append(charts.points(arm, x, mean, colour=colour, mode="lines", line=_line(arm)))
        told.append(f"{arm} {mean[-1]:.3f} after {len(mean)} trials per model")
        table += [[arm, count, value] for count, value in zip(x, mean, strict=True) if count % 5 == 0 or count == x[-1]]
    return Chart(
        "Dominated share of the feasible region, mean over models",
        f"Dominated share over the number of trials: {'; '.join(told)}.",
        traces,
        charts.layout(charts.axis("trials of the arm, per model"), charts.axis("share, larger is better")),
        Table("Dominated share by arm", ["Arm", Num("Trials"), Num("Share")], table, folded=True),
    )


def _best(runs: dict[tuple[str, str], list[Step]]) -> Iterator[Chart]:
    for model in dict.fromkeys(model for model, _ in runs):
        traces, told = [], []
        table: list[list[Cell]] = []
        seen: list[float] = []
        for arm, (colour, symbol) in charts.ARMS.items():
            run = runs.get((model, arm))
            if run is None or run[-1].best is None:
                continue
            lowest = [step.best for step in run]
            line = _line(arm) | {"shape": "hv"}
            traces.append(charts.points(arm, range(1, len(run) + 1), lowest, colour=colour, mode="lines", line=line))
            better = [i for i in range(len(run)) if i == 0 or lowest[i] != lowest[i - 1]]
            traces.append(
                charts.points(
                    arm,
                    [i + 1 for i in better],
                    [lowest[i] for i in better],
                    colour=colour,
                    symbol=symbol,
                    texts=[run[i].text for i in better],
                    ids=[run[i].trial for i in better],
                    showlegend=False,
                )
            )
            seen += [value for value in lowest if value is not None]
            told.append(f"{arm} {run[-1].best:.3g}")
            table += [[arm, i + 1, lowest[i], Ref("trial", run[i].trial)] for i in better]
        if traces:
            headings = ["Arm", Num("Trials"), Num("Lowest KLD so far"), "Trial"]
            yield Chart(
                f"{model}: lowest KLD so far at ≤ {TARGET_BITS} bits/value",
                f"Lowest KLD found on {model} at no more than {TARGET_BITS} bits/value: {', '.join(told)}.",
                traces,
                charts.layout(charts.axis("trials of the arm"), charts.log_axis("KLD, nat", seen)),
                Table(f"Lowest KLD so far on {model}", headings, table, folded=True),
            )


def _line(arm: str) -> dict[str, Any]:
    return {"color": charts.ARMS[arm][0], "width": 2, "dash": "solid" if arm == "agents" else "dot"}
