"""The default configurations on every device that MLX computes on here: the same KLD and attention errors or not.

Each run is a process of its own: the CPU, whose floating-point weights and activations are float32; the CPU with those
of the GPU, in the model's own 16 bit, which tells differences of the type from those of the device; the GPU as
campaigns use it, in 16 bit; and the GPU with float32 weights. All read the same text windows, so that differences are
paired by window.
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
from benchmarks._devices_page import CPU, CPU_16, GPU_16, GPU_32

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
    runs = [CPU, CPU_16] if device() == "cpu" else [CPU, CPU_16, GPU_16, GPU_32]
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

    on_cpu = run in (CPU, CPU_16)
    if on_cpu:
        mx.set_default_device(mx.cpu)
    compiled = None if on_cpu else CompiledKernels()
    if run in LOADED:
        runner.models = ModelCache(LOADED[run], MAX_MODEL_BYTES)
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


def _in_16_bit(name: str) -> LoadedModel:
    """A model on the CPU with the weights and activations that it has on a GPU, in its own 16-bit type.

    MLX's CPU build multiplies 16-bit matrices thirty times slower than float32: linear layers and the whole vocabulary
    therefore sum up in float32 and round to 16 bit then, as GPUs do.
    """
    import mlx.core as mx
    from mlx import nn
    from mlx.utils import tree_flatten

    from swarm.experiments.models import loading, registry

    weights = tree_flatten(loading.read_model(registry.ensure(name))[0].parameters())
    own = next(array.dtype for _, array in weights if mx.issubdtype(array.dtype, mx.floating))
    loaded = registry.load(name)
    loaded.model.set_dtype(own)
    for _, module in loaded.model.named_modules():
        if type(module) is nn.Linear:
            module.set_dtype(mx.float32)

    def rounded(product: Any) -> Any:
        return lambda module, x: product(module, x.astype(mx.float32)).astype(own)

    nn.Linear.__call__ = rounded(nn.Linear.__call__)
    nn.Embedding.as_linear = rounded(lambda module, x: x @ module.weight.astype(mx.float32).T)
    return loaded


LOADED = {CPU_16: _in_16_bit, GPU_32: _in_float32}
"""How runs load a model that do not take it as campaigns do."""

BENCHMARK = _frame.Benchmark("devices", measure, _devices_page.page)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
