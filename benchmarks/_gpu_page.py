"""The page of the benchmark `gpu`: how long campaigns took, by parts, and what the GPU did meanwhile."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks import _frame

PARTS = ("prepare", "fit", "measure", "time kernels")
EARLY = 150
GOAL_SECONDS, GOAL_TIMES, GOAL_AT_32K, GOAL_FIT = 75.0, 10.0, 5.0, 0.2
DEFAULT, COLD, TWO_CORES, AT_32K = "default", "default, nothing compiled yet", "two CPU cores", "one model at 32K"


def rate(ends: list[float], first: int = 0) -> float | None:
    """Trials per minute from trial `first` to the last; None where there are too few."""
    if len(ends) < first + 2 or ends[-1] <= ends[first]:
        return None
    return 60 * (len(ends) - 1 - first) / (ends[-1] - ends[first])


def captured(ends: list[float]) -> int:
    """The trial from which captures are there: half of the early ones, or of all where there are fewer."""
    return min(EARLY, len(ends)) // 2


def line(found: dict[str, Any]) -> str:
    """A campaign in a line."""
    text = f"{found['name']}: {found['trials']} trials by {found['workers']} workers, {found['wall']:.0f} s"
    return text + f" (ended with {found['code']})" * bool(found["code"])


def page(record: _frame.Results) -> str:
    """The page of a record."""
    campaigns = record["results"]["campaigns"]
    parts = [_frame.heading(record, "Campaigns on a GPU"), _overview(campaigns), *map(_kinds, campaigns)]
    if not record["short"]:
        parts.append(_verdict({found["name"]: found for found in campaigns}))
    return "\n".join(part for part in parts if part)


def _overview(campaigns: list[dict[str, Any]]) -> str:
    rows = []
    for found in campaigns:
        ends, use = found["ends"], found["use"]
        rows.append(
            (
                found["name"],
                found["workers"],
                f"{found['trials']} ({found['failed']})" + ", ended early" * bool(found["code"]),
                f"{found['wall']:.0f}",
                "" if found.get("began") is None else f"{found['began']:.0f} s",
                _seconds(ends, 0),
                _seconds(ends, EARLY - 1),
                _number(rate(ends[:EARLY])),
                _number(rate(ends, captured(ends))),
                f"{100 * found['worker_seconds'] / (found['workers'] * ends[-1]):.0f}%" if ends else "",
                "" if use is None else f"{use['busy_percent']:.0f}%",
                "" if use is None else f"{use['peak_mib'] / 1024:.1f}",
            )
        )
    columns = ("campaign", "workers", "trials (failed)", "seconds", "first began after", "first ended after")
    columns += (
        f"{EARLY} after",
        "a minute at first",
        "a minute once captured",
        "workers busy",
        "GPU busy",
        "GiB at most",
    )
    return _frame.table(columns, rows) + (
        "\nSeconds are of the whole command, Python's and Ray's start included; a trial begins when a worker makes "
        "what it shares with others. Workers busy: seconds of trials over seconds of workers. GPU busy: nvidia-smi, "
        "mean over the campaign.\n"
    )


def _kinds(found: dict[str, Any]) -> str:
    rows = [
        (k["kind"], k["n"], f"{k['median']:.2f}", f"{k['longest']:.1f}", *(f"{k.get(part, 0.0):.1f}" for part in PARTS))
        for k in found["kinds"]
    ]
    slow = "; ".join(f"{one['kv']} on {one['model']} {one['seconds']['trial']:.1f} s" for one in found["slowest"][:3])
    columns = ("protocol, rung, context", "n", "median s", "longest s", *(f"{part}, sum" for part in PARTS))
    learned = found.get("learned") or []
    fits = f" Learned scaling was fitted in {_median(learned)} (median of {len(learned)} trials)." if learned else ""
    head = f"## {found['name'].capitalize()}\n`swarm launch {' '.join(found['arguments'])}`\n\n"
    return f"{head}{_frame.table(columns, rows)}\nThe longest: {slow}.{fits}\n"


def _verdict(campaigns: dict[str, dict[str, Any]]) -> str:
    lines = []
    for name in (COLD, DEFAULT):
        if name in campaigns:
            found = campaigns[name]
            met, seen = found["wall"] <= GOAL_SECONDS, f"{found['wall']:.0f} s"
            if found["code"]:
                met, seen = False, f"ended after {found['trials']} in {seen}"
            lines.append(_frame.said(f"330 trials, {name}, in {GOAL_SECONDS:g} s", met, seen))
    ours, theirs = (
        rate(campaigns[name]["ends"], captured(campaigns[name]["ends"])) if name in campaigns else None
        for name in (DEFAULT, TWO_CORES)
    )
    if ours and theirs:
        times = ours / theirs
        what = f"{GOAL_TIMES:g} times the trials a minute of two CPU cores"
        lines.append(_frame.said(what, times >= GOAL_TIMES, f"{times:.1f}"))
    if AT_32K in campaigns:
        lines += _at_32k(campaigns[AT_32K])
    if learned := campaigns.get(DEFAULT, {}).get("learned"):
        fit = statistics.median(learned)
        lines.append(
            _frame.said(f"learned scaling in a trial in {GOAL_FIT:g} s, median", fit <= GOAL_FIT, f"{fit:.2f} s")
        )
    return "## Goals\n" + "\n".join(lines) + "\n" if lines else ""


def _at_32k(found: dict[str, Any]) -> list[str]:
    """What the campaign at 32K says of trials that find their 16-bit run made: without what they prepared."""
    trials = found.get("ready", [])
    what = f"a rung-0 trial at 32K of {found['arguments'][-1]}, once captured, in {GOAL_AT_32K:g} s"
    if not trials:
        return [_frame.said(what, False, "none ended")]
    return [_frame.said(what, statistics.median(trials) <= GOAL_AT_32K, f"{_median(trials)}, {len(trials)} trials")]


def _median(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s, {max(seconds):.2f} at most"


def _seconds(ends: list[float], index: int) -> str:
    return f"{ends[index]:.0f} s" if index < len(ends) else ""


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
