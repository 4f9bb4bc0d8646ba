"""The page on local LLMs, from the lines of `_llm` and `_llm_arms`: usable answers, what they cost, what they add.

    uv run python -m benchmarks._llm_page FOLDER

Reads `answers*.jsonl`, `arms*.jsonl`, `twins*.jsonl` and `about.json` of a folder and writes
docs/benchmarks/search_llm.json and .md.
`about.json` holds `about`, a line on how the record came about, `campaigns`, what `swarm status --json` says of
campaigns by name, and `scribe`, lines of `_llm_scribe`.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks import _frame, _llm_arms

from swarm.agents.llm.telemetry import KEPT, READ, USABLE

ROUNDS = 4_000
NAME = "search_llm"
ARMS = ("arm", "LLM", "seeds", "final regret", "against", "regret", "trials saved", "usable", "kept", "tokens", "s")
SAVED = ("arm", "LLM", "against", "pairs", "trials saved", "in words")
ANSWERS = ("role", "answers", "usable", "kept", "prompt", "of it read before", "answer", "seconds")

TWINS = ("who", "answers", "right", "keys were planted", "values were planted")

Lines = Sequence[Mapping[str, Any]]
Numbers = np.ndarray[Any, np.dtype[np.float64]]
Curves = dict[tuple[str, str], dict[int, Sequence[float]]]
"""The regret after each trial by seed, of each arm with its LLM."""

_PATH = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+([\w.+-]+)")


def page(record: Mapping[str, Any]) -> str:
    """What came out, as Markdown."""
    answers, arms = record["answers"], record["arms"]
    parts = ["# Local LLMs: usable answers, cost, and what they add to a search\n", str(record.get("about", "")) + "\n"]
    parts.append(
        f"Made from `docs/benchmarks/{NAME}.json`, which `python -m benchmarks._llm_page` puts together from what "
        "`_llm`, `_llm_arms`, `_llm_twins`, `_llm_scribe` and `swarm status --json` wrote.\n"
    )
    parts.append("## In a campaign on two cores\n")
    parts.append(_campaigns(record["campaigns"]) if record.get("campaigns") else "Not measured yet.\n")
    parts.append("## Usable answers\n")
    parts.append(
        "Questions about replays of recorded trials, each about another one (`python -m benchmarks._llm`). `usable` is "
        "what could be judged on the data, `kept` what stood up to it. Medians of tokens and seconds.\n"
        if answers
        else "Not measured yet.\n"
    )
    parts += [_recorded(answers)] if answers else []
    for llm in sorted({line["llm"] for line in answers}):
        parts += [f"### {llm}\n", _frame.table(ANSWERS, _answers([a for a in answers if a["llm"] == llm]))]
    parts.append("## What an LLM adds to a search\n")
    parts.append(
        "Searches replayed on the recorded table (`python -m benchmarks._llm_arms`). Regret in percent of the feasible "
        "box after the last trial (the table's front has none). Trials saved: how many fewer an arm takes than the arm "
        "that it is set against to the final median regret of that one; a seed that does not get there counts as the "
        "whole budget. `first untried` takes the first of the untried configurations that the LLM is shown: what the "
        "LLM alone does beyond that is its own choice. Means with 95% bootstrap intervals, paired by model and seed; "
        "below zero the LLM costs trials.\n"
        if arms
        else "Not measured yet.\n"
    )
    parts += [_recorded(arms), *_arms(arms)] if arms else []
    parts.append("## Naming planted causes\n")
    twins = record.get("twins") or ()
    parts.append(
        "Contrasts between a model and its twin, in which outlier channels of keys or values were planted (`python -m "
        "benchmarks._llm_twins`): the LLM is shown two configurations on both models, what captures show, and "
        f"{twins[0]['offered']} causes to choose from. The built-in analysts suspect from the same captures; their "
        "trials on edited weights, which follow, confirm or refute that. Shares are means over twins, with 95% "
        "intervals.\n"
        if twins
        else "Not measured yet.\n"
    )
    parts += [_frame.table(TWINS, _twins(twins))] if twins else []
    parts.append("## The scribe beside the built-in summary\n")
    parts.append(
        "What stood of three answers per campaign (`python -m benchmarks._llm_scribe`): a sentence counts where the "
        "checker resolves it and it tells of a finding that the text does not show. The built-in text comes first.\n"
        if record.get("scribe")
        else "Not measured yet.\n"
    )
    built_in: dict[str, str] = {}
    for line in record.get("scribe") or ():
        if built_in.get(line["campaign"]) != line["built_in"]:
            built_in[line["campaign"]] = line["built_in"]
            parts.append(f"### {line['campaign']}\n\n{_quoted(line['built_in'])}\n")
        kept = "\n\n".join(line["kept"]) or "Nothing."
        parts.append(f"{line['llm']} adds, {len(line['refused'])} sentences or answers refused:\n\n{_quoted(kept)}\n")
    return "\n".join(parts)


def _twins(lines: Lines) -> Iterable[Sequence[object]]:
    """Who names what was planted how often: every LLM, the built-in analysts on the same questions, and chance."""
    asked = {(line["seed"], line["contrast"]): line for line in lines}
    answers = {llm: [line for line in lines if line["llm"] == llm] for llm in sorted({line["llm"] for line in lines})}
    told = [(llm, [(line, line["named"] == line["cause"]) for line in mine]) for llm, mine in answers.items()]
    told.append(("built-in, from captures", [(line, line["suspected"] == line["cause"]) for line in asked.values()]))
    told.append(("built-in, by trials", [(line, line["tested"] == [line["cause"]]) for line in asked.values()]))
    for who, hits in told:
        by_twin: dict[int, list[bool]] = defaultdict(list)
        for line, hit in hits:
            by_twin[line["seed"]].append(hit)
        sides = ([hit for line, hit in hits if line["cause"].endswith(side)] for side in ("keys", "values"))
        shares = np.array([np.mean(mine) for mine in by_twin.values()])
        yield [who, len(hits), _interval(shares, ".2f"), *(f"{sum(side)} of {len(side)}" for side in sides)]
    chance = np.mean([1 / line["offered"] for line in asked.values()])
    yield ["chance", len(asked), f"{chance:.2f}", "", ""]


def _quoted(text: str) -> str:
    """A text as a quotation, its headings as bold lines."""
    plain = (f"**{line.lstrip('# ')}**" if line.startswith("#") else line for line in text.strip().splitlines())
    return "\n".join(f"> {line}".rstrip() for line in plain)


def _arms(arms: Lines) -> Iterable[str]:
    groups: dict[int, dict[str, Curves]] = defaultdict(lambda: defaultdict(lambda: defaultdict(dict)))
    for line in arms:
        groups[line["budget"]][line["model"]][line["arm"], line["llm"]][line["seed"]] = line["regret"]
    for budget, models in sorted(groups.items()):
        mine = [line for line in arms if line["budget"] == budget]
        if saved := list(_saved(models, mine)):
            yield from (f"### All models, {budget} trials\n", _frame.table(SAVED, saved))
        for model, curves in sorted(models.items()):
            lines = [line for line in mine if line["model"] == model]
            rows = [row for arm in _ordered(mine) if arm in curves for row in _rows(*arm, curves, lines)]
            yield from (f"### {model}, {budget} trials\n", _frame.table(ARMS, rows))


def _ordered(lines: Lines) -> Sequence[tuple[str, str]]:
    """The arms of some lines with the names of their LLMs, those without one first."""
    order = [*_llm_arms.PLAIN, *_llm_arms.WITH_LLM]
    return sorted({(line["arm"], line["llm"]) for line in lines}, key=lambda arm: (order.index(arm[0]), arm[1]))


def _saved(models: Mapping[str, Curves], lines: Lines) -> Iterable[Sequence[object]]:
    """Trials saved on all models, by every arm with an LLM against each that it is compared with."""
    llms = sorted({line["llm"] for line in lines} - {""})
    for arm, (others, _) in _llm_arms.WITH_LLM.items():
        for llm, other in product(llms, others):
            pairs = [_gains(curves[arm, llm], curves[other, ""])[1] for curves in models.values()]
            saved = np.concatenate(pairs)
            if not len(saved):
                yield [arm, llm, other, 0, "", "not measured yet"]
                continue
            low, high = _bounds(saved)
            words = "it saves trials" if low > 0 else "it costs trials" if high < 0 else "not told from none"
            yield [arm, llm, other, len(saved), _interval(saved, "+.1f"), words]


def _campaigns(campaigns: Mapping[str, Mapping[str, Any]]) -> str:
    """What `swarm status --json` says of campaigns with and without an LLM, in a table."""
    rows = []
    alone = {_finished(one): one["spend"]["seconds"]["spent"] for one in campaigns.values() if not one.get("llm")}
    for name, status in campaigns.items():
        told, spent, trials = status.get("llm") or {}, status["spend"], _finished(status)
        longer = f"{spent['seconds']['spent'] / alone[trials]:.2f}" if told and alone.get(trials) else ""
        seconds = [f"{spent[kind]['spent']:.0f}" for kind in ("seconds", "worker_seconds")]
        answers = [told.get("answers", 0), told.get("usable", 0), told.get("kept", 0)] if told else ["", "", ""]
        each = f"{told['seconds']:.1f}" if told.get("seconds") else ""
        rows.append([name, trials, *seconds, longer, *answers, each, f"{spent['tokens']['spent']:,.0f}"])
    text = "At the same time, each on two cores of its own; one with fewer trials was stopped by the clock.\n\n"
    columns = (
        "campaign",
        "trials",
        "s",
        "worker s",
        "of the s without",
        "answers",
        "usable",
        "kept",
        "s per answer",
        "tokens",
    )
    return text + _frame.table(columns, rows)


def _finished(status: Mapping[str, Any]) -> int:
    """Trials that ended."""
    return sum(count for state, count in status["trials"].items() if state not in ("waiting", "running"))


def _answers(lines: Lines) -> Iterable[Sequence[object]]:
    for role in sorted({line["role"] for line in lines}):
        mine = [line for line in lines if line["role"] == role]
        came = [line for line in mine if line["outcome"] in READ]
        usable = sum(line["outcome"] in USABLE for line in came)
        medians = [
            f"{np.median([line[field] for line in came]):,.{digits}f}" if came else ""
            for field, digits in (("tokens_in", 0), ("tokens_cached", 0), ("tokens_out", 0), ("seconds", 1))
        ]
        share = f"{usable} ({usable / len(mine):.1%})"
        yield [role, len(mine), share, sum(line["outcome"] == KEPT for line in came), *medians]


def _rows(arm: str, llm: str, curves: Curves, lines: Lines) -> Iterable[Sequence[object]]:
    """An arm beside each that it is compared with."""
    mine = curves[arm, llm]
    cells = [arm, llm or "-", len(mine), f"{100 * np.median([curve[-1] for curve in mine.values()]):.2f}"]
    if arm not in _llm_arms.WITH_LLM:
        yield [*cells, *[""] * (len(ARMS) - len(cells))]
        return
    reports = [line["report"] for line in lines if (line["arm"], line["llm"]) == (arm, llm)]
    answers, usable, kept = (sum(one.get(name, 0) for one in reports) for name in ("answers", "usable", "kept"))
    tokens = sum(one.get("tokens_in", 0) + one.get("tokens_out", 0) for one in reports) / len(reports)
    seconds = sum(one.get("answers", 0) * (one.get("seconds") or 0.0) for one in reports) / len(reports)
    spent = [f"{usable} of {answers}" if answers else "none", kept, f"{tokens:,.0f}", f"{seconds:.0f}"]
    for other in _llm_arms.WITH_LLM[arm][0]:
        regret, saved = _gains(mine, curves[other, ""])
        gains = [_interval(regret, "+.2f"), _interval(saved, "+.1f")] if len(saved) else ["", "not measured yet"]
        yield [*cells, other, *gains, *spent]


def _gains(mine: Mapping[int, Sequence[float]], other: Mapping[int, Sequence[float]]) -> tuple[Numbers, Numbers]:
    """For each seed that two arms have: the difference of their last regrets in percent, and the trials saved."""
    seeds = sorted(mine.keys() & other.keys())
    goal = float(np.median([other[seed][-1] for seed in seeds])) if seeds else 0.0
    regret = [100 * (mine[seed][-1] - other[seed][-1]) for seed in seeds]
    saved = [_trials(other[seed], goal) - _trials(mine[seed], goal) for seed in seeds]
    return np.array(regret, float), np.array(saved, float)


def _trials(curve: Sequence[float], goal: float) -> int:
    """Trials until the regret is no more than a goal."""
    return next((number for number, regret in enumerate(curve, 1) if regret <= goal), len(curve))


def _interval(values: Numbers, form: str) -> str:
    low, high = _bounds(values)
    return f"{values.mean():{form}} ({low:{form}} to {high:{form}})"


def _bounds(values: Numbers) -> tuple[float, float]:
    """The 95% interval of a mean."""
    draws = np.random.default_rng(0).choice(values, (ROUNDS, len(values))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def _recorded(lines: Lines) -> str:
    """With which code some lines were recorded."""
    counts = Counter(str(line.get("revision") or "unknown") for line in lines)
    return f"Lines by revision: {', '.join(f'{count} at {name}' for name, count in counts.most_common())}.\n"


def without_paths(value: Any) -> Any:
    """Data in which paths of the machine that recorded them are the names of the files alone."""
    if isinstance(value, str):
        return _PATH.sub(r"\1", value)
    if isinstance(value, Mapping):
        return {name: without_paths(one) for name, one in value.items()}
    return [without_paths(one) for one in value] if isinstance(value, list) else value


def main() -> int:
    """Put the files of a folder together, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._llm_page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    about = folder / "about.json"
    record = json.loads(about.read_text()) if about.exists() else {}
    record.pop("logs", None)
    for name in ("answers", "arms", "twins"):
        record[name] = [line for path in sorted(folder.glob(f"{name}*.jsonl")) for line in _frame.whole_lines(path)]
    record = without_paths(record)
    _frame.write_json(_frame.DOCS / f"{NAME}.json", record)
    (_frame.DOCS / f"{NAME}.md").write_text(page(record))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
