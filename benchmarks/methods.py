"""Error and KLD of every quantization method on the bundled models at comparable bits/value, and what fitting costs.

Every row is measured by the protocols that campaigns run: `attention` for errors of keys, values and attention output,
`quality` (16-bit prefill, quantized decode) for the divergence of the model's answers, on other text in every
replicate. What is measured is kept by fingerprint in the cache folder, so that an interrupted run goes on. With --docs
the table goes into docs/methods.md as well.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks import _frame, _method_page
from benchmarks._method_rows import Row, rows

from swarm.experiments import artifacts
from swarm.experiments.identity import fingerprint
from swarm.kernels import blas

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import TrialSpec

REPLICATES = {"quality": 2, "attention": 1}
SHORT_CONTEXT, SHORT_ROWS = 64, 2
PROCESSES = 3
QUALITY, ATTENTION = ("kld", "same_top1"), ("output_rel_error", "key_rel_mse", "value_rel_mse", "g")


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """All rows of all bundled models that are installed, each model in a process of its own."""
    blas.use_openblas(1)
    from swarm.experiments.models import registry

    models = [info.name for info in registry.catalogue() if info.bundled and info.available][: 1 if short else None]
    for name in models:
        registry.ensure(name)
    from swarm.experiments.measurement.decode import tail_tokens
    from swarm.experiments.spec import TrialSpec

    context = SHORT_CONTEXT if short else TrialSpec(model="any").context
    about = {"context": context, "scored": tail_tokens(context)}
    if short:
        return about | {"models": {name: of_model(name, short) for name in models}}
    with ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = {name: pool.submit(of_model, name, False) for name in models}
        found = {}
        for name, job in jobs.items():
            found[name] = job.result()
            tell(f"{name}: {len(found[name]['rows'])} rows")
    return about | {"models": found}


def of_model(name: str, short: bool) -> _frame.Results:
    """The rows of one model, and what fitting learned scaling costs there."""
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models import registry

    runner, info = Runner(), registry.describe(name)
    wanted = rows(info.head_dim, key_bias=info.key_bias)
    notebook = Notebook(artifacts.cache_dir() / "benchmarks" / f"methods-{name}.jsonl", runner)
    found = [_measured(row, info, notebook, short) for row in wanted[: SHORT_ROWS if short else None]]
    fitted = next(row for row in wanted if row.kv.key.scaling == row.kv.value.scaling == "learned")
    return {
        "head_dim": info.head_dim,
        "scale_kind": info.scale_kind,
        "rows": found,
        "fitting": {} if short else notebook.fitting(_spec(fitted, info, runner)),
    }


class Notebook:
    """Measurements by fingerprint, in a file that an interrupted run goes on with."""

    def __init__(self, path: Path, runner: Runner) -> None:
        self.runner = runner
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, dict[str, Any]] = {entry["fingerprint"]: entry for entry in _frame.whole_lines(path)}

    def run(self, spec: TrialSpec) -> dict[str, Any]:
        """The metrics and series of a trial, measured once."""
        identity = fingerprint(spec)
        if identity not in self._known:
            found = self.runner.run(spec)
            entry = {
                "fingerprint": identity,
                "metrics": {metric.name: metric.value for metric in found.metrics},
                "windows": {name: series for name, series in found.arrays.items() if name.startswith("window_")},
            }
            self._keep(entry)
        return self._known[identity]

    def fitting(self, spec: TrialSpec) -> dict[str, float]:
        """What fitting the learned scaling of a trial costs, measured once."""
        key = f"fitting {fingerprint(spec)}"
        if key not in self._known:
            self._keep({"fingerprint": key, "seconds": fitting_cost(spec)})
        seconds: dict[str, float] = self._known[key]["seconds"]
        return seconds

    def _keep(self, entry: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        self._known[entry["fingerprint"]] = entry


def _spec(row: Row, info: ModelInfo, runner: Runner, **fields: Any) -> TrialSpec:
    from swarm.experiments.spec import TrialSpec

    return TrialSpec(model=info.name, model_digest=info.digest, corpus_digest=runner.corpus.digest, kv=row.kv, **fields)


def _measured(row: Row, info: ModelInfo, notebook: Notebook, short: bool) -> dict[str, Any]:
    """Means over all windows of all replicates, with standard errors over windows."""
    small = {"context": SHORT_CONTEXT} if short else {}
    runs = {
        protocol: [
            notebook.run(_spec(row, info, notebook.runner, protocol=protocol, replicate=replicate, **small))
            for replicate in range(1 if short else replicates)
        ]
        for protocol, replicates in REPLICATES.items()
    }
    metrics = {name: _pooled(runs["quality"], name) for name in QUALITY}
    metrics |= {name: _pooled(runs["attention"], name) for name in ATTENTION}
    first = runs["quality"][0]["metrics"]
    return {
        "method": row.method,
        "label": row.label,
        "kv": row.kv.model_dump(mode="json", exclude_defaults=True),
        "bits_per_value": first["bits_per_value_limit"],
        "noise_kld": fmean(run["metrics"]["noise_kld"] for run in runs["quality"]),
        "metrics": metrics,
    }


def _pooled(runs: Sequence[dict[str, Any]], name: str) -> dict[str, float]:
    windows = list(chain.from_iterable(run["windows"][f"window_{name}"] for run in runs))
    return {"value": fmean(windows), "stderr": stdev(windows) / len(windows) ** 0.5, "n": len(windows)}


def fitting_cost(spec: TrialSpec) -> dict[str, float]:
    """CPU seconds of reading the calibration text, and of fitting keys and values of one specification."""
    from swarm.experiments.measurement import learned_scaling
    from swarm.experiments.measurement.runner import Runner

    with tempfile.TemporaryDirectory() as folder:
        subject = Runner(cache_dir=Path(folder)).subject(spec.model)
        subject.loaded  # noqa: B018  the model in memory is no part of the cost
        times = [time.process_time()]
        subject.shared(learned_scaling.CalibrationRun, learned_scaling.calibration_spec(spec, subject))
        times.append(time.process_time())
        learned_scaling.learned(spec, subject)
        times.append(time.process_time())
    return {"calibration_cpu_seconds": times[1] - times[0], "fitting_cpu_seconds": times[2] - times[1]}


BENCHMARK = _frame.Benchmark("methods", measure, _method_page.page)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; the guide gets the table whenever the page is written."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    code = BENCHMARK.main(given)
    if code == 0 and {"--docs", "--page"} & {argument.partition("=")[0] for argument in given}:
        record = _frame.read(_frame.DOCS / "methods.json", "methods")
        _method_page.into_guide(record, _frame.ROOT / "docs" / "methods.md")
    return code


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process per model, one thread each
    sys.exit(main())
