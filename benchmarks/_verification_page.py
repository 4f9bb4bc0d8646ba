"""The page of the benchmark of `swarm verify`, and its records of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks import _frame
from benchmarks._faulty_server import CHUNK

Row = dict[str, Any]


def joined(records: Sequence[_frame.Results]) -> _frame.Results:
    """One record of runs of different days, machines or revisions: every row says which run made it.

    Rows that a run went on from (`VERIFICATION_KEEP`) count as those of the run that made them.
    """
    first, *others = ({**record, "results": _signed(record)} for record in records)
    results = dict(first["results"])
    for other in others:
        found = other["results"]
        fresh = [row for row in found["rows"] if row not in results["rows"]]
        old = len(found["rows"]) - len(fresh)
        runs = [{**run, "wanted": run["wanted"] - old, "done": run["done"] - old} for run in found["runs"]]
        results["rows"] = results["rows"] + fresh
        results["failures"] = results["failures"] + found["failures"]
        results["runs"] = results["runs"] + runs
    return first | {"results": results}


def _signed(record: _frame.Results) -> _frame.Results:
    """Results whose rows say which run made them, with that run's facts under `runs`."""
    results = record["results"]
    if "runs" in results:
        return dict(results)
    made = f"{record['date']}, {record['git_revision'][:7] or 'unknown'}"
    facts = {name: record[name] for name in ("device", "cores", "load_before", "versions")}
    done = {"made": made, "wanted": results["wanted"], "done": len(results["rows"]), "failed": len(results["failures"])}
    rows = [{"made": made, **row} for row in results["rows"]]
    return {**results, "rows": rows, "runs": [{**facts, **done}]}


def page(record: _frame.Results) -> str:
    """The runs, clean servers, faults, goals."""
    results = _signed(record)
    clean = [row for row in results["rows"] if row["where"] == "nowhere"]
    faulty = [row for row in results["rows"] if row["where"] != "nowhere"]
    named = [row for row in faulty if row["where"] in row["blamed"]]
    blamed = [row for row in clean if row["blamed"]]
    return "\n".join(
        (
            _frame.heading(record, "Verification"),
            f"`swarm verify` against real servers over bundled models: prompts of {results['tokens']} tokens, "
            f"{results['clients']} clients, chunks of {CHUNK} tokens, a process and a core for each run.\n",
            *map(_run, results["runs"]),
            "\n## Clean servers\n",
            f"At most {results['rounds']} rounds each, fewer where those left could blame nothing any more. Noise is "
            "the largest difference between the same positions generated and read as part of a prompt; the last column "
            "is the largest difference that a feature made.\n",
            _frame.table(
                ("server", "cache", "made", "runs", "blamed", "seconds", "noise, nat", "largest, nat"), _clean(clean)
            ),
            "## Planted faults\n",
            "Each hurts 8 tokens of every second layer.\n",
            _frame.table(
                ("fault", "made", "blamed", "rounds", "seconds", "noise, nat", "difference, nat"), map(_fault, faulty)
            ),
            "## The goals\n",
            _frame.said(
                "9 of 10 faults found and named within ten minutes",
                bool(faulty) and len(named) >= 0.9 * len(faulty),
                f"{len(named)} of {len(faulty)}",
            ),
            _frame.said("no clean run of 50 blamed", len(clean) >= 50 and not blamed, f"{len(blamed)} of {len(clean)}"),
            "",
        )
    )


def _run(run: Row) -> str:
    package = ", ".join(
        f"{name} {run['versions'][name]}" for name in ("xllamacpp", "mlx-lm") if name in run["versions"]
    )
    return (
        f"- Made {run['made']}: {run['device']}, {run['cores']} cores, load average {run['load_before']} before it "
        f"began, {package}; {run['done']} of {run['wanted']} runs were done in the time given, {run['failed']} failed."
    )


def _clean(rows: Sequence[Row]) -> Iterator[tuple[object, ...]]:
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["server"], row["cache"], row["made"])):
        groups.setdefault((row["server"], row["cache"], row["made"]), []).append(row)
    for names, found in groups.items():
        yield (
            *names,
            len(found),
            sum(bool(row["blamed"]) for row in found),
            f"{max(row['seconds'] for row in found):.0f}",
            f"{max(row['noise'] for row in found):.2g}",
            f"{max(max(row['largest'].values()) for row in found):.2g}",
        )


def _fault(row: Row) -> tuple[object, ...]:
    name = f"{row['what']}, {row['where']}"
    blamed = ", ".join(row["blamed"]) or "nothing"
    values = (row["made"], blamed, row["rounds"], f"{row['seconds']:.0f}", f"{row['noise']:.2g}")
    return (name, *values, f"{row['largest'].get(row['where'], 0.0):.2g}")
