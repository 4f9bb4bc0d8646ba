"""The page of the benchmark of engine searches, from its record."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import _engine_arms, _frame

OURS, PEER, OTHER = _engine_arms.ARMS
REACH_MINUTES, REACH_TRIALS = 15, 60


def page(record: _frame.Results) -> str:
    """The searches, what their choices are worth on text that none has read, and whether the goals are met."""
    results = record["results"]
    tokens = results["context"]
    return "\n".join(
        (
            _frame.heading(record, "Searching the flags of an engine"),
            f"llama.cpp (its server out of xllamacpp) at a context of {tokens} tokens, at most {results['trials']} "
            "trials per search and model, each search on two cores of its own. Flags are feasible when the upper 95% "
            f"limit of the KLD from the engine's own 16-bit run is at most {_engine_arms.MAX_KLD} nat. Of those the "
            f"search takes the quickest request: {tokens} tokens in, {_engine_arms.ANSWER_TOKENS} out.\n",
            f"- **{OURS}**: `swarm launch --engine llama.cpp`, one campaign on all models: defaults, control arm and "
            "finalists are among its trials.",
            f"- **{PEER}**: Optuna's TPE over the same flags, for the seconds of that request, the bound as a "
            "constraint.",
            f"- **{OTHER}**: TPE for the rate of generated tokens alone, keys and values in 16 bit; the quickest "
            "generation is taken. Its own program was not run: it drives llama-bench, which the package lacks.\n",
            "## What was chosen, measured again\n",
            f"In turns on the same two cores, {_rounds(results)} rounds, on text that no search has read; medians, "
            "and the largest upper limit of the KLD. Choices of the two searches of a comparison are those after as "
            "many trials.\n",
            _frame.table(
                ("model", "flags", "chosen by", "decode tok/s", "prefill tok/s", "request, s", "memory", "KLD limit"),
                _checked(results),
            ),
            "## Searches\n",
            _frame.table(("model", "search", "trials", "failed", "infeasible", "minutes"), _searched(results)),
            "## Goals\n",
            *_goals(results),
            "",
        )
    )


def _rounds(results: dict[str, Any]) -> int:
    return max((row["turn"] + 1 for check in results["checks"] for row in check["rows"]), default=0)


def _of(results: dict[str, Any], model: str, seed: int, flags: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured again of some flags."""
    rows = (row for c in results["checks"] if (c["model"], c["seed"]) == (model, seed) for row in c["rows"])
    return [row for row in rows if row["flags"] == flags and "request" in row]


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return statistics.median(row[name] for row in rows)


def _checked(results: dict[str, Any]) -> Iterator[list[object]]:
    for check in results["checks"]:
        by_flags: dict[str, list[dict[str, Any]]] = {}
        for row in check["rows"]:
            if "request" in row:
                by_flags.setdefault(" ".join(f"{k}={v}" for k, v in row["flags"].items()), []).append(row)
        for label, rows in by_flags.items():
            yield [
                check["model"],
                f"`{label}`" if label else "none",
                _choosers(results, check["model"], check["seed"], rows[0]["flags"]),
                f"{_median(rows, 'decode_rate'):.1f}",
                f"{_median(rows, 'prefill_rate'):.0f}",
                f"{_median(rows, 'request'):.2f}",
                f"{_median(rows, 'memory') / 2**20:.0f} MiB",
                f"{max(row['kld_upper'] for row in rows):.4f}",
            ]


def _choosers(results: dict[str, Any], model: str, seed: int, flags: dict[str, Any]) -> str:
    found = []
    for c in results["comparisons"]:
        if (c["model"], c["seed"]) == (model, seed):
            found += [f"{OURS} after {c['trials']}"] * (c["ours"] == flags)
            found += [f"{c['arm']} after {c['trials']}"] * (c["theirs"] == flags)
    return ", ".join(dict.fromkeys(found)) or "the engine itself"


def _searched(results: dict[str, Any]) -> Iterator[list[object]]:
    for search in results["searches"]:
        rows = search["rows"]
        yield [
            ", ".join(search["models"]),
            f"{search['arm']} (seed {search['seed']})",
            len(rows),
            sum("request" not in row for row in rows),
            sum(row.get("kld_upper", 0.0) > _engine_arms.MAX_KLD for row in rows),
            f"{(rows[-1]['at'] if rows else 0.0) / 60:.1f}",
        ]


def _goals(results: dict[str, Any]) -> Iterator[str]:
    worst: dict[str, float] = {}
    for c in results["comparisons"]:
        where = f"{c['model']}, seed {c['seed']}, {c['trials']} trials each"
        ours, theirs = (_of(results, c["model"], c["seed"], c[side]) for side in ("ours", "theirs"))
        if ours and theirs:
            ratio = _frame.ratio([r["request"] for r in theirs], [r["request"] for r in ours])
            text = f"{where}: a request at least as quick as with the choice of {c['arm']}"
            yield _frame.said(text, ratio["ratio"] >= 1.0, _frame.times(ratio))
            name = f"{c['model']}, seed {c['seed']}"
            worst[name] = max(worst.get(name, 0.0), *(row["kld_upper"] for row in ours))
    for name, limit in worst.items():
        yield _frame.said(f"{name}: inside the bound on unseen text", limit <= _engine_arms.MAX_KLD, f"{limit:.4f}")
    for search in results["searches"]:
        if search["arm"] == OURS and search["rows"]:
            minutes, trials = search["rows"][-1]["at"] / 60, len(search["rows"])
            yield _frame.said(
                f"seed {search['seed']}: the pace of {REACH_TRIALS} trials on {', '.join(search['models'])} within "
                f"{REACH_MINUTES} minutes on two cores, everything included",
                minutes / trials * REACH_TRIALS <= REACH_MINUTES,
                f"{trials} in {minutes:.1f} min",
            )
