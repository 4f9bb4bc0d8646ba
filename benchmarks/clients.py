"""Several clients at once: how much faster a batch of sequences decodes than one, over packed caches and 16 bit.

Sequences of different length, filled with random vectors, decode together as `swarm serve` decodes the answers of its
clients: one cache for each sequence, the model's weights read once for all. On a GPU: Llama 3.1 8B by its shape, with
random weights of 4 bits; on a CPU a bundled model. All batch sizes of a model take turns in one process.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from benchmarks import _frame, endtoend

CLIENTS = {"gpu": (1, 2, 4, 8), "cpu": (1, 2, 4)}
DEPTHS = {"gpu": (2048, 16_384), "cpu": (2048, 8192)}
PATHS = (endtoend.OURS, endtoend.SIXTEEN)
APART = 16  # tokens that each sequence holds less than the one before it
STEPS = {"gpu": 32, "cpu": 4}
ROUNDS = 5
GOAL_CLIENTS, GOAL = 2, 1.7  # at the largest depth, times the rate of one


def batch(subject: endtoend.Subject, path: str, depth: int, clients: int) -> list[Any]:
    """Caches of so many sequences, one cache per layer for all of them."""
    rows = []
    for i in range(clients):
        caches = subject.paths()[path]()
        subject.fill(caches, depth - APART * i, 1)
        rows.append(caches)
    return [layer[0].merge(list(layer)) for layer in zip(*rows, strict=True)]


def subjects(short: bool) -> Iterator[endtoend.Subject]:
    """The models."""
    if short:
        yield endtoend.Subject.of_shape(endtoend.TINY)
    elif endtoend.where() == "gpu":
        yield endtoend.Subject.of_shape(endtoend.SHAPES[0])
    else:
        yield endtoend.Subject.bundled("smollm2-135m")


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Milliseconds per step of every batch size, round by round; if interrupted, of the rounds that were done."""
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    try:
        for subject in subjects(short):
            for depth in (128,) if short else DEPTHS[endtoend.where()]:
                for path in PATHS:
                    measure_path(subject, path, depth, short, tell, rows)
    except KeyboardInterrupt:
        notes.append(endtoend.INTERRUPTED)
    return {"rows": rows, "device": endtoend.where(), "notes": notes}


def measure_path(
    subject: endtoend.Subject, path: str, depth: int, short: bool, tell: _frame.Tell, rows: list[dict[str, Any]]
) -> None:
    """Add a row per batch size, all of which take turns."""
    import mlx.core as mx

    place = endtoend.where()
    rounds, steps, counts = (2, 2, (1, 2)) if short else (ROUNDS, STEPS[place], CLIENTS[place])
    times: dict[int, list[float]] = {clients: [] for clients in counts}
    try:
        batches = {clients: batch(subject, path, depth, clients) for clients in counts}
        for _ in range(rounds):
            for clients, caches in batches.items():
                times[clients].append(subject.decode_together(caches, steps, clients).mean)
    finally:
        for clients, found in times.items():
            if found:
                rows.append({"model": subject.name, "path": path, "depth": depth, "clients": clients, "ms": found})
                tell(f"{subject.name} at {depth}, {path}, {clients} clients: {statistics.median(found):.2f} ms")
    del batches, caches
    mx.clear_cache()


def page(record: _frame.Results) -> str:
    """The record in words."""
    rows = record["results"]["rows"]
    text = _frame.heading(record, "Several clients at once")
    text += (
        "\n" + (__doc__ or "").partition("\n\n")[2].strip() + "\n\nMilliseconds per step of the whole batch, median of "
        "the rounds; `x one client` is the rate of all clients together over that of one in the same round: median and "
        "extremes.\n"
    )
    text += "".join(f"\n{note}\n" for note in record["results"].get("notes", ()))
    columns = ("clients", "cache", "depth", "ms per step", "tokens/s, all", "x one client")
    for model in dict.fromkeys(row["model"] for row in rows):
        lines = [_line(row, rows) for row in rows if row["model"] == model]
        text += f"\n## {model}\n\n" + _frame.table(columns, lines)
    deepest = DEPTHS[record["results"]["device"]][-1]
    goals = [row for row in rows if row["depth"] == deepest and row["clients"] == GOAL_CLIENTS]
    said = []
    for row in goals:
        if row["path"] == endtoend.OURS:
            ratio = _times_one(row, rows)["ratio"]
            goal = f"{GOAL_CLIENTS} clients at {deepest:,}: {GOAL}x the rate of one"
            said.append(_frame.said(goal, ratio >= GOAL, f"{ratio:.2f}x"))
    return text + "\n" + "\n".join(said) + "\n"


def _line(row: dict[str, Any], rows: list[dict[str, Any]]) -> tuple[object, ...]:
    ms = statistics.median(row["ms"])
    rate = f"{1e3 * row['clients'] / ms:.3g}"
    return row["clients"], row["path"], f"{row['depth']:,}", f"{ms:.2f}", rate, _frame.times(_times_one(row, rows))


def _times_one(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, float]:
    """The rate of a batch over that of one client with the same cache at the same depth, round by round."""
    one = next(r for r in rows if r["clients"] == 1 and all(r[k] == row[k] for k in ("model", "path", "depth")))
    return _frame.paired([row["clients"] * ms for ms in one["ms"]], row["ms"])


BENCHMARK = _frame.Benchmark("clients", measure, page, ("mlx-cuda-13",))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
