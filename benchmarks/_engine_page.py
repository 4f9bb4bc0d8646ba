"""The page of the benchmark of engine searches, from its record."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import _engine_arms, _frame

OURS, PEER, OTHER = _engine_arms.ARMS
PLAIN = "without flags"
REACH_SECONDS, REACH_TRIALS = 15 * 60, 60


def page(record: _frame.Results) -> str:
    """The searches, what their choices are worth on text that none has read, and whether the goals are met."""
    results = record["results"]
    tokens = results["context"]
    return "\n".join(
        (
            _frame.heading(record, "Searching the flags of an engine"),
            f"llama.cpp (its server out of xllamacpp) at a context of {tokens} tokens, {results['trials']} trials per "
            f"search and model, each search on two cores of its own. Flags are feasible when the upper 95% limit of "
            f"the KLD from the engine's own 16-bit run is at most {_engine_arms.MAX_KLD} nat. Of those the search "
            f"takes the quickest request: {tokens} tokens in, {_engine_arms.ANSWER_TOKENS} out.\n",
            "Searches of one model are compared by as many trials as each of them had time for.\n",
            f"- **{OURS}**: `swarm launch --engine llama.cpp`: defaults, control arm and finalists are among its "
            "trials.",
            f"- **{PEER}**: Optuna's TPE over the same flags, for the seconds of that request, the bound as a "
            "constraint.",
            f"- **{OTHER}**: TPE for the rate of generated tokens alone, keys and values in 16 bit; the quickest "
            "generation is taken. Its own program was not run: it drives llama-bench, which the package lacks.\n",
            "## What was chosen, measured again\n",
            f"In turns on the same two cores, {_rounds(results)} rounds, on text that no search has read; medians, "
            "and the largest upper limit of the KLD.\n",
            _frame.table(
                ("model", "flags of", "decode tok/s", "prefill tok/s", "request, s", "memory", "KLD, upper limit"),
                _checked(results),
            ),
            "## Searches\n",
            _frame.table(
                ("model", "search", "trials", "compared", "failed", "minutes", "best at trial", "chosen flags"),
                _searched(results),
            ),
            "## Goals\n",
            *_goals(results),
            "",
        )
    )


def _rounds(results: dict[str, Any]) -> int:
    return max((row["turn"] + 1 for check in results["checks"] for row in check["rows"]), default=0)


def _groups(check: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Rows that measured something, by whose flags they are."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in check["rows"]:
        if "request" in row:
            found.setdefault(row["arm"], []).append(row)
    return found


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _checked(results: dict[str, Any]) -> Iterator[list[object]]:
    for check in results["checks"]:
        for arm, rows in _groups(check).items():
            yield [
                check["model"],
                arm if arm == PLAIN else f"{arm} (seed {check['seed']})",
                f"{_median(rows, 'decode_rate'):.1f}",
                f"{_median(rows, 'prefill_rate'):.0f}",
                f"{_median(rows, 'request'):.2f}",
                f"{_median(rows, 'memory') / 2**20:.0f} MiB",
                f"{max(row['kld_upper'] for row in rows):.4f}",
            ]


def _searched(results: dict[str, Any]) -> Iterator[list[object]]:
    for search in results["searches"]:
        rows, chosen = search["rows"], search["chosen"]
        first = next((i for i, row in enumerate(rows) if chosen and row["flags"] == chosen["flags"]), -1)
        flags = " ".join(f"{name}={value}" for name, value in chosen["flags"].items()) if chosen else "nothing"
        yield [
            search["model"],
            f"{search['arm']} (seed {search['seed']})",
            len(rows),
            search["compared"],
            sum("request" not in row for row in rows),
            f"{(rows[-1]['at'] if rows else 0.0) / 60:.1f}",
            first + 1,
            f"`{flags or PLAIN}`",
        ]


def _goals(results: dict[str, Any]) -> Iterator[str]:
    for check in results["checks"]:
        groups, where = _groups(check), f"{check['model']}, seed {check['seed']}"
        for peer in (PEER, OTHER):
            if OURS in groups and peer in groups:
                ratio = _frame.ratio([r["request"] for r in groups[peer]], [r["request"] for r in groups[OURS]])
                text = f"{where}: a request at least as quick as with the choice of {peer}"
                # A clock cannot tell less apart than its own spread.
                yield _frame.said(text, ratio["high"] >= 1.0 and ratio["ratio"] >= 0.98, f"{_frame.times(ratio)}")
        if OURS in groups:
            worst = max(row["kld_upper"] for row in groups[OURS])
            yield _frame.said(
                f"{where}: inside the bound on unseen text", worst <= _engine_arms.MAX_KLD, f"{worst:.4f}"
            )
    for seed in sorted({search["seed"] for search in results["searches"]}):
        ours = [s for s in results["searches"] if s["arm"] == OURS and s["seed"] == seed and s["rows"]]
        seconds = sum(search["rows"][-1]["at"] for search in ours)
        trials = sum(len(search["rows"]) for search in ours)
        yield _frame.said(
            f"seed {seed}: 60 trials on both models within 15 minutes on two cores",
            seconds <= REACH_SECONDS and trials >= REACH_TRIALS,
            f"{trials} in {seconds / 60:.1f} min",
        )
