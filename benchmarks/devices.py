"""The default configurations on every device that MLX computes on here: the same KLD and attention errors or not.

Each run is a process of its own: the CPU, whose floating-point weights and activations are float32; the GPU as
campaigns use it, in 16 bit; and the GPU with float32 weights, which tells differences of the device from those of the
type. All read the same text windows, so that differences are paired by window.
"""

from __future__ import annotations

import faulthandler
import os
import tempfile
from collections.abc import Sequence
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _devices_page, _frame
from benchmarks._devices_page import CPU, GPU_16, GPU_32

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel
    from swarm.experiments.spec import TrialSpec

SHORT_COUNT, SHORT_CONTEXT, CONTEXT = 2, 64, 512
PROTOCOLS = ("quality", "attention")


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run the configurations on every device, models, devices and protocols in processes of their own at once."""
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    blas.use_openblas(1)
    names = registry.default_models()[: 1 if short else None]
    if not names:
        raise SwarmError("no bundled model is on this machine.", "Install them: `uv sync`.")
    for name in names:
        registry.ensure(name)
    runs = [CPU] if device() == "cpu" else [CPU, GPU_16, GPU_32]
    spawn = get_context("spawn")
    models: dict[str, Any] = {name: {run: [] for run in runs} for name in names}
    failures: list[dict[str, str]] = []
    interrupted = False
    with tempfile.TemporaryDirectory() as place:
        running = []
        for name, run, protocol in product(names, runs, PROTOCOLS[: 1 if short else None]):
            receiver, sender = spawn.Pipe(duplex=False)
            process = spawn.Process(target=answer, args=(run, name, protocol, short, Path(place) / run, sender))
            process.start()
            sender.close()
            running.append((name, run, protocol, process, receiver))
        for name, run, protocol, process, receiver in running:
            try:
                found = _answered(process, receiver, interrupted)
            except KeyboardInterrupt:
                interrupted = True  # those that have answered already are still heard
                found = _answered(process, receiver, interrupted)
            if isinstance(found, str):
                failures.append({"model": name, "run": run, "protocol": protocol, "error": found})
                tell(f"{protocol} of {name} on {run}: {found}")
                continue
            models[name][run] += found
            tell(f"{protocol} of {name} on {run}: {len(found)} answers")
    return {"runs": runs, "models": models, "failures": failures}


def _answered(process: Any, receiver: Any, interrupted: bool) -> list[dict[str, Any]] | str:
    """What a process answers, or why it does not; once interrupted, none is waited for."""
    try:
        if interrupted and not receiver.poll():
            process.kill()
            process.join()
            return "interrupted before it answered"
        found: list[dict[str, Any]] = receiver.recv()
    except EOFError:
        process.join()
        return f"ended without an answer, exit status {process.exitcode}"
    process.join()
    return found


def answer(run: str, model: str, protocol: str, short: bool, cache: Path, answers: Any) -> None:
    """Measure the default configurations of a model on one device in this process, and send what came out."""
    faulthandler.enable()  # a segfault tells where
    if run == GPU_32:
        os.environ["MLX_ENABLE_TF32"] = "0"  # read with the first product: float32 is to be float32
    from swarm.experiments.compiled_kernels import CompiledKernels
    from swarm.experiments.measurement.runner import MAX_MODEL_BYTES, ModelCache, Runner
    from swarm.experiments.spec import KernelTiming

    runner = Runner(cache_dir=cache, kernels=KernelTiming(contexts=()))  # answers, not times
    import mlx.core as mx

    if run == CPU:
        mx.set_default_device(mx.cpu)
    compiled = None if run == CPU else CompiledKernels()
    if run == GPU_32:
        runner.models = ModelCache(_in_float32, MAX_MODEL_BYTES)
    found = []
    for spec in _specs(model, protocol, runner.corpus.digest, short):
        try:
            measured = runner.run(spec)
        except SwarmError as error:
            found.append({"protocol": spec.protocol, "kv": spec.kv.label, "error": str(error)})
            continue
        metrics = {metric.name: metric.value for metric in measured.metrics if not metric.timed}
        windows = {name: list(values) for name, values in measured.arrays.items() if name.startswith("window_")}
        found.append({"protocol": spec.protocol, "kv": spec.kv.label, "metrics": metrics, "windows": windows})
    if compiled is not None:
        compiled.exchange()
    answers.send(found)


def _specs(model: str, protocol: str, corpus: str, short: bool) -> Sequence[TrialSpec]:
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry
    from swarm.experiments.space.search_space import Space, SpaceSettings

    info = registry.describe(model)
    settings = SpaceSettings(context=SHORT_CONTEXT if short else CONTEXT)
    specs = Space([info], settings, corpus_digest=corpus, device=device()).defaults(info)
    quantized = [spec for spec in specs if spec.kv.key.method != "none"][: SHORT_COUNT if short else None]
    return [spec.model_copy(update={"protocol": protocol}) for spec in quantized]


def _in_float32(name: str) -> LoadedModel:
    """A model whose floating-point weights are float32, as on the CPU; packed weights stay packed."""
    import mlx.core as mx

    from swarm.experiments.models import registry

    loaded = registry.load(name)
    loaded.model.set_dtype(mx.float32)
    return loaded


BENCHMARK = _frame.Benchmark("devices", measure, _devices_page.page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
