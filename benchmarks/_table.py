"""The table of measured configurations that search strategies are replayed on: how it is made, kept and read.

One line of JSON per trial while it is being made (a run goes on where the last one ended), Parquet when it is done.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import _grid

from swarm.kernels.errors import TrialError, UsageError
from swarm.kernels.spec import KVSpec, layers_in_kv

FILE = Path(__file__).parent / "data" / "search.parquet"
CONTEXT = 256
TAIL = 8
"""Tokens that are decoded and scored per window: a quarter of what a campaign decodes, so that 6,000 trials cost an
hour. Otherwise the trials are a campaign's own: rung 0 of the quality protocol over four windows."""
METRICS = ("kld", "same_top1", "bits_per_value", "noise_kld")
SERIES = "window_kld"


@dataclass(frozen=True)
class Row:
    """What one trial measured; `metrics` is empty when it failed, and `outcome` says how."""

    outcome: str
    metrics: Mapping[str, float]
    windows: tuple[float, ...]


Table = Mapping[str, Mapping[KVSpec, Row]]
"""Rows by model and configuration."""


def measure(model: str, folder: Path, tell: Callable[[str], None], limit: int | None = None) -> Path:
    """Run the trials of a model that are not in its file yet, in a seeded random order.

    Args:
        model: name of the model.
        folder: where `MODEL.jsonl` is kept.
        tell: told about progress.
        limit: most configurations in the file; None means all.
    """
    from swarm.experiments.environment import environment
    from swarm.experiments.measurement import decode
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models import registry
    from swarm.experiments.spec import TrialSpec

    decode.TAIL = TAIL
    decode.DecodeRun.settings["tail"] = TAIL  # part of the captures' key, so that no campaign reads them
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{model}.jsonl"
    done = {_configuration(json.loads(line)) for line in _lines(path)}
    registry.ensure(model)
    info = registry.describe(model)
    wanted = list(_grid.configurations(info))
    random.Random(0).shuffle(wanted)
    wanted = [kv for kv in wanted[:limit] if kv not in done]
    runner = Runner(threads=1)
    began, cpu = time.perf_counter(), time.process_time()
    with path.open("a") as file:
        for number, kv in enumerate(wanted):
            spec = TrialSpec(
                model=model,
                model_digest=info.digest,
                corpus_digest=runner.corpus.digest,
                kv=kv,
                context=CONTEXT,
            )
            line: dict[str, Any] = {"kv": kv.model_dump(mode="json")}
            start = time.process_time()
            try:
                found = runner.run(spec)
            except TrialError as error:
                line |= {"outcome": error.outcome}
            else:
                line |= {"outcome": "ok", SERIES: found.arrays[SERIES]} | {name: found[name] for name in METRICS}
            line |= {"cpu": time.process_time() - start, "code_version": environment().code_version}
            file.write(json.dumps(line) + "\n")
            file.flush()
            if number % 50 == 49:
                each = (time.perf_counter() - began) / (number + 1), (time.process_time() - cpu) / (number + 1)
                tell(f"{model}: {number + 1} of {len(wanted)}, {each[0]:.2f} s each, {each[1]:.2f} s of CPU")
    return path


def _lines(path: Path) -> list[str]:
    """Whole lines of a file; a last line that was cut off is dropped from the file."""
    if not path.exists():
        return []
    text = path.read_text()
    if not text.endswith("\n"):
        text = text[: text.rfind("\n") + 1]
        path.write_text(text)
    return text.splitlines()


def _configuration(line: dict[str, Any]) -> KVSpec:
    return KVSpec.model_validate(layers_in_kv(line)["kv"])


def pack(folder: Path, file: Path = FILE) -> dict[str, int]:
    """Write the tables of a folder into one Parquet file, in place of what it has of their models.

    Returns:
        The number of configurations by model.

    Raises:
        UsageError: there is none.
    """
    import pyarrow
    from pyarrow import parquet

    made = {
        path.stem: [{"model": path.stem, **flat(json.loads(line))} for line in _lines(path)]
        for path in sorted(folder.glob("*.jsonl"))
    }
    if not any(made.values()):
        raise UsageError(f"no table is in {folder}.", "Make one with `python -m benchmarks._table`.")
    kept = parquet.read_table(file).to_pylist() if file.is_file() else []
    rows = [row for row in kept if row["model"] not in made]
    rows += [row for found in made.values() for row in found]
    rows.sort(key=lambda row: _grid.MODELS.index(row["model"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), file, compression="zstd", compression_level=19)
    return dict(Counter(row["model"] for row in rows))


def flat(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line as columns; keys and values by their labels."""
    kv = _configuration(line)
    return {
        "key": kv.key.label,
        "value": kv.value.label,
        "sink_tokens": kv.sink_tokens,
        "residual_window": kv.residual_window,
        "key_bias": kv.key_bias,
        "protected": 0 if kv.layers is None else kv.layers[0],
        "outcome": line["outcome"],
        **{name: line.get(name) for name in METRICS},
        SERIES: line.get(SERIES),
        "cpu_seconds": line["cpu"],
        "code_version": line["code_version"],
    }


def load(file: Path = FILE) -> dict[str, dict[KVSpec, Row]]:
    """The shipped table.

    Raises:
        UsageError: it is missing.
    """
    from pyarrow import parquet

    from swarm.experiments.models import registry

    if not file.is_file():
        raise UsageError(f"{file} is missing.", "Make it with `python -m benchmarks._table`.")
    keys, values = ({spec.label: spec for spec in _grid.specs(side)} for side in ("key", "value"))
    found: dict[str, dict[KVSpec, Row]] = {}
    for row in parquet.read_table(file).to_pylist():
        kv = KVSpec(
            key=keys[row["key"]],
            value=values[row["value"]],
            **{name: row[name] for name in ("sink_tokens", "residual_window", "key_bias")},
        )
        n = registry.describe(row["model"]).n_layers
        layers = tuple(range(row["protected"], n)) if row["protected"] else None
        metrics = {name: row[name] for name in METRICS if row[name] is not None}
        found.setdefault(row["model"], {})[kv.on(layers)] = Row(row["outcome"], metrics, tuple(row[SERIES] or ()))
    return found


def main() -> int:
    """Make the table, or go on making it, and pack it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", default=_grid.MODELS, help="bundled models; default: all")
    parser.add_argument("--folder", type=Path, required=True, help="where unfinished tables are kept")
    parser.add_argument("--limit", type=int, help="configurations per model, for trying it out")
    options = parser.parse_args()
    for model in options.models:
        measure(model, options.folder, lambda line: print(line, flush=True), options.limit)
    print(pack(options.folder))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
