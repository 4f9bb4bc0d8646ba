"""Planted truths: twins of bundled models with known causes of errors, campaigns over model and twin, what these name.

A twin is written to disk as a model of its own; nothing in it says what was planted. Campaigns run the product's own
strategy, analysts, judge and protocols in this process, without store and Ray.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import exp, log
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from benchmarks import _from_tests

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.settings import AgentSettings
from swarm.experiments import edits
from swarm.experiments.edits import Part, WeightEdit
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.memory.records import Finding, Proposal, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models.base import ModelInfo

BASES = ("smollm2-135m", "gemma3-270m")
KINDS = ("keys", "values", "keys of a layer", "values of a layer", "keys of some layers", "scale", "none")
CONTROLS = ("scale", "none")
"""Twins whose quantized caches have the errors of the model: whatever is said to differ is wrong."""
FACTORS = {"keys": (3.0, 24.0), "values": (3.0, 24.0), "scale": (3.0, 24.0)}
LAYER_FACTORS = (6.0, 48.0)
"""Ranges from which factors are drawn, evenly on the logarithmic scale; single layers need more to matter."""
MOST_LAYERS = 4
LAG = 8
TWIN = "twin"
in_memory = _from_tests.load("in_memory")


@dataclass(frozen=True)
class Plant:
    """What is planted in a twin: `part` is empty for nothing, `layers` None for all."""

    base: str
    kind: str
    part: str = ""
    factor: float = 1.0
    layers: tuple[int, ...] | None = None

    @property
    def edits(self) -> tuple[WeightEdit, ...]:
        """The change of weights."""
        if self.kind == "none":
            return ()
        part: Part = "values" if self.part == "values" else "keys"
        change = "scaled" if self.kind == "scale" else "outliers"
        return (WeightEdit(part=part, change=change, factor=self.factor, layers=self.layers),)


def bundled() -> dict[str, Path]:
    """The folders of the models that twins are made of, by name."""
    from swarm.experiments.models import registry

    return {name: registry.ensure(name) for name in BASES}


def kind(seed: int) -> str:
    """What kind of twin a seed makes: all kinds in turns."""
    return KINDS[seed % len(KINDS)]


def draw(seed: int, n_layers: dict[str, int]) -> Plant:
    """What is planted with a seed: kinds and bases in turns, factor and layers at random.

    Args:
        seed: any whole number from 0.
        n_layers: layers of the bases, by name.
    """
    names = tuple(n_layers)
    what, base = kind(seed), names[seed % len(names)]
    rng = np.random.default_rng([seed, len(KINDS)])
    if what == "none":
        return Plant(base, what)
    part = "values" if what.startswith("values") else "keys"
    low, high = LAYER_FACTORS if "layer" in what else FACTORS[what]
    factor = float(f"{exp(rng.uniform(log(low), log(high))):.4g}")
    layers = None
    if "layer" in what:
        count = 1 if "a layer" in what else int(rng.integers(2, min(MOST_LAYERS, n_layers[base] // 2) + 1))
        first = int(rng.integers(0, n_layers[base] - count + 1))
        layers = tuple(range(first, first + count))
    return Plant(base, what, part, factor, layers)


def write_twin(plant: Plant, base: Path, folder: Path, runner: Runner) -> None:
    """Write the twin of a model to a folder: its files with the edited weights in place of the model's own."""
    import mlx.core as mx
    from mlx.utils import tree_flatten

    from swarm.experiments.measurement.editing import edited

    folder.mkdir(parents=True)
    for path in base.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            shutil.copy(path, folder / path.name)
    weights = {name: array for path in base.glob("model*.safetensors") for name, array in mx.load(str(path)).items()}
    spec = TrialSpec(model=plant.base, edits=plant.edits)
    model = runner.subject(plant.base).loaded.model
    plain = dict(tree_flatten(model.parameters()))
    with edited(spec, runner.subject(plant.base)):
        changed = {n: array for n, array in tree_flatten(model.parameters()) if array is not plain[n]}
        mx.eval(list(changed.values()))
    if changed.keys() - weights.keys():
        raise AssertionError(f"weights of other names: {sorted(changed.keys() - weights.keys())[:3]}")
    mx.save_safetensors(str(folder / "model.safetensors"), {**weights, **changed}, metadata={"format": "mlx"})


@contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder to work in, so that a twin has the same name wherever it lies."""
    before, folder = Path.cwd(), Path(mkdtemp(prefix="planted-"))
    os.chdir(folder)
    try:
        yield folder
    finally:
        os.chdir(before)
        shutil.rmtree(folder, ignore_errors=True)


def measured(runner: Runner, number: int, proposal: Proposal) -> TrialRecord:
    spec, start = proposal.spec, time.perf_counter()
    outcome: dict[str, object] = {"state": "failed", "outcome": "error"}
    with suppress(SwarmError):  # a trial that fails is a result as well
        found = runner.run(spec)
        metrics = {metric.name: metric for metric in found.metrics}
        outcome = {"state": "complete", "outcome": "ok", "metrics": metrics, "arrays": found.arrays}
    return in_memory.proposed(number, proposal).model_copy(update={**outcome, "seconds": time.perf_counter() - start})


def campaign(
    runner: Runner,
    infos: Sequence[ModelInfo],
    budget: int,
    context: int,
    seed: int,
    settings: AgentSettings,
    lag: int = LAG,
    run: Callable[[Runner, int, Proposal], TrialRecord] = measured,
) -> Any:
    """An `in_memory.Run`, under the lag of a driver with two workers or another one, whose trials `run` measures."""
    space = Space(infos, SpaceSettings(context=context), corpus_digest=runner.corpus.digest)
    strategy = GenerationStrategy(space, AnalysisEngine(infos, settings), seed)
    return in_memory.campaign(strategy, budget, lag, partial(run, runner))


Named = tuple[str, tuple[int, ...] | None]
"""A side, and the layers (None for all)."""


def named(finding: Finding, records: Sequence[TrialRecord]) -> set[Named]:
    """Which channels a finding names as a cause: what the trials that it rests on were edited in."""
    ids = set(finding.evidence)
    found = {edit for record in records if record.id in ids for edit in record.spec.edits}
    return {(edit.part, edit.layers) for edit in found if edit.part in ("keys", "values")}


def label(plant: Plant) -> str:
    """A plant in words."""
    return edits.label(plant.edits) or "nothing"


@contextmanager
def planted(seed: int, bases: Mapping[str, Path]) -> Iterator[tuple[Plant, Runner, list[ModelInfo]]]:
    """What a seed plants, and model and twin, ready to be measured for the time of the block.

    Args:
        seed: see `draw`.
        bases: folders of the models by name.
    """
    from swarm.kernels import blas

    blas.use_openblas(1)  # before MLX is imported
    import mlx.core as mx

    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models import registry

    mx.set_default_device(mx.cpu)  # also where there is a GPU
    with workplace() as folder:
        runner = Runner(cache_dir=folder / "cache")
        infos = {name: registry.describe(name) for name in bases}
        plant = draw(seed, {name: info.n_layers for name, info in infos.items()})
        write_twin(plant, bases[plant.base], folder / TWIN, runner)
        yield plant, runner, [infos[plant.base], registry.describe(TWIN)]
