"""Does a configuration lose more than a point of its answers about long texts? Verdicts of the sequential test.

The rows were made by `_verdicts_rows`. Each configuration's questions are read in a random order until it is decided.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from benchmarks import _frame, _verdicts_rows
from benchmarks._rows import Row

from swarm.experiments.measurement.decision import decide
from swarm.experiments.measurement.question_losses import in_random_order

MARGIN = 0.01
ALPHA = 0.05
SCORES = {"match": "exact match", "p": "probability of the right answer"}


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:  # noqa: ARG001
    """Decide about every configuration on every model, by either score."""
    found = _verdicts_rows.STUDY.load()
    models: dict[str, list[Row]] = {}
    for row in sorted(found["rows"], key=lambda row: int(row["replicate"])):
        if row["match"]:
            models.setdefault(row["model"], []).append(row)
    verdicts = []
    for model, rows in models.items():
        able = any(any(row["match_16bit"]) for row in rows)
        for label in rows[0]["match"] if able else ():
            whole = [row for row in rows if label in row["match"]]
            if any(label in row["failed"] for row in rows):
                continue  # it broke down on a text
            one: _frame.Results = {"model": model, "kv": label}
            for score in SCORES:
                decision = decide(losses(whole, label, score), MARGIN, ALPHA)
                every = list(losses(whole, label, score))
                one[score] = {
                    "outcome": decision.outcome,
                    "items": decision.items,
                    "loss": decision.loss,
                    "all": float(np.mean(every)),
                }
            verdicts.append(one)
        tell(f"{model}: {len(rows)} replicates")
    return {
        "made": found["made"],
        "context": _verdicts_rows.CONTEXT,
        "questions": {model: sum(len(row["match_16bit"]) for row in rows) for model, rows in models.items()},
        "able": {model: float(np.mean([row["match_16bit"] for row in rows])) for model, rows in models.items()},
        "verdicts": verdicts,
    }


def losses(rows: Sequence[Row], label: str, score: str) -> Iterator[float]:
    """Question by question the score of the 16-bit run less the configuration's, shuffled within each replicate."""
    for row in rows:
        lost = np.array(row[f"{score}_16bit"], np.float64) - np.array(row[score][label], np.float64)
        yield from in_random_order(lost.tolist(), row["replicate"])


def page(record: _frame.Results) -> str:
    """The page: what was decided about what, after how many questions."""
    results = record["results"]
    places = sorted({f"{one['device']} on {one['date']} with mlx {one['versions']['mlx']}" for one in results["made"]})
    asked = ", ".join(
        f"{model} {results['questions'][model]:,}, of which 16 bit answers {share:.0%}"
        for model, share in results["able"].items()
    )
    parts = [
        _frame.heading(record, "Verdicts: at most one point lost at long contexts?"),
        f"Questions of protocol `retrieval` about texts of {results['context']:,} tokens, read in 16 bit and then "
        f"quantized ({asked}), measured with `{_verdicts_rows.STUDY.command} --folder FOLDER` ({', '.join(places)}). "
        "A question's loss is the score of the 16-bit run less that of the quantized one; answers that only the "
        f"quantized run gets right count as well. `swarm.decide` with a margin of {100 * MARGIN:g} point of all "
        f"questions and an error rate of {ALPHA:.0%} reads them in a random order, replicate by replicate, and stops "
        "when it is sure. Texts of later replicates hide other facts in text that earlier ones have used in part. "
        "`loss` is over the questions that were needed, `of all` over all there are.\n",
    ]
    for model in results["able"]:
        parts.append(f"## {model}\n")
        rows = [
            (f"`{one['kv']}`", *(cell for score in SCORES for cell in _cells(one[score])))
            for one in results["verdicts"]
            if one["model"] == model
        ]
        columns = ["configuration"]
        for name in ("exact match", "probability"):
            columns += [name, "questions", "loss, points", "of all"]
        parts.append(_frame.table(columns, rows) if rows else "The 16-bit run answers nothing: nothing can be lost.\n")
    return "\n".join(parts)


def _cells(found: _frame.Results) -> tuple[str, str, str, str]:
    return found["outcome"], str(found["items"]), f"{100 * found['loss']:.2f}", f"{100 * found['all']:.2f}"


BENCHMARK = _frame.Benchmark("verdicts", measure, page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
