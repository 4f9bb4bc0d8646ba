"""Runs trials in this process: models in memory, threads and BLAS in order, failures turned into the trial's errors."""

from __future__ import annotations

import errno
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from swarm.experiments import artifacts
from swarm.experiments.edits import read as read_edits
from swarm.experiments.environment import device
from swarm.experiments.measurement.editing import edited
from swarm.experiments.measurement.model_under_test import ModelUnderTest
from swarm.experiments.protocols import base as protocols
from swarm.experiments.spec import KernelTiming, Measurement, TrialSpec
from swarm.experiments.text import Corpus
from swarm.kernels import blas
from swarm.kernels.errors import (
    DiskFullError,
    NonFiniteError,
    OutOfMemoryError,
    SpecError,
    SwarmError,
    TrialError,
)
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel

MAX_MODEL_BYTES = 9 << 28
MLX_CACHE_BYTES = 256 << 20
NO_MEMORY = ("out of memory", "unable to allocate", "failed to allocate", "bad_alloc", "cannot allocate")


class Runner:
    """Measures trials, one at a time. One runner per process: it owns the BLAS threads and the models in memory.

    Args:
        cache_dir: where captures are kept; the user cache by default.
        corpus: the text that is read; CPython's topic help by default.
        threads: threads of the matrix products. With 1, results are the same bit for bit in every process.
        memory: bytes of weights to keep; the least recently used models go first. The model in use always stays.
        kernels: what kernels are timed for, where there are any.
        cache: bytes of freed memory that MLX keeps for the next arrays.

    Raises:
        CorpusError: the text cannot be read.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        corpus: Path | None = None,
        threads: int = 1,
        memory: int = MAX_MODEL_BYTES,
        kernels: KernelTiming = KernelTiming(),  # noqa: B008 - frozen
        cache: int = MLX_CACHE_BYTES,
    ) -> None:
        blas.use_openblas(threads)
        self.corpus = Corpus.open(corpus)
        self.captures = artifacts.CaptureStore((cache_dir or artifacts.cache_dir()) / "captures")
        self.threads = threads
        self.kernels = kernels
        self.models = ModelCache(partial(_load, cache=cache), memory)
        self._subjects: dict[str, ModelUnderTest] = {}

    def prepare(self, spec: TrialSpec) -> None:
        """Load a model and make what trials of this kind share, unless another process did.

        Raises:
            SpecError: the model cannot do that.
            TrialError: it failed, with the reason.
        """
        subject, plan = self.subject(spec.model), protocols.protocol(spec.protocol)
        with trial_errors():
            plan.check(spec, subject)
            with edited(spec, subject):
                plan.prepare(spec, subject)

    def run(self, spec: TrialSpec) -> Measurement:
        """Measure a trial; `seconds["total"]` is its wall time, loading included.

        Raises:
            UsageError: the specification fits no protocol, model or text.
            TrialError: it ended without a measurement; the subclass says how.
        """
        start = time.perf_counter()
        subject, plan = self.subject(spec.model), protocols.protocol(spec.protocol)
        with trial_errors():
            plan.check(spec, subject)
            with edited(spec, subject):
                measured = plan.measure(spec, subject)
        seconds = {**measured.seconds, "total": time.perf_counter() - start}
        return measured.model_copy(update={"seconds": seconds})

    def subject(self, model: str) -> ModelUnderTest:
        """The model as an experiment sees it, kept for the next trial."""
        if model not in self._subjects:
            from swarm.experiments.models import registry

            self._subjects[model] = ModelUnderTest(
                model, registry.describe, self.models.get, self.corpus, self.captures, self.kernels
            )
        return self._subjects[model]


def measure(
    model: str | Path,
    kv: KVSpec | str,
    protocol: str = "quality",
    *,
    context: int = 512,
    rung: int = 0,
    seed: int = 0,
    replicate: int = 0,
    logit_gain: float = 1.0,
    edits: str = "",
    corpus: Path | None = None,
) -> Measurement:
    """Measure one trial here and now, in this process, without a store: what a worker of a campaign does.

    The 16-bit runs that trials share are kept in the user cache; the model stays in memory for the next call.

    Args:
        model: a bundled name, a Hugging Face id, or a folder.
        kv: the cache's configuration, or its label, such as `K kivi4/g32/channel V affine3/g64 sink4`.
        protocol: what is measured.
        context: tokens of a text window.
        rung: fidelity of the protocol; 0 is the cheapest.
        seed: decides random rotations and sketches.
        replicate: which text windows are read.
        logit_gain: multiplies the attention logits.
        edits: changes of the weights that leave the 16-bit function as it is, such as `keys even layers 0-3`.
        corpus: a UTF-8 text to read; CPython's topic help by default.

    Raises:
        UsageError: there is no such model, protocol or text, or they do not fit each other or the configuration.
        TrialError: the trial ended without a measurement; the subclass says how.
    """
    try:
        spec = TrialSpec(
            model=str(model),
            kv=KVSpec.parse(kv) if isinstance(kv, str) else kv,
            protocol=protocol,
            context=context,
            rung=rung,
            seed=seed,
            replicate=replicate,
            logit_gain=logit_gain,
            edits=read_edits(edits),
            device=device(),
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name, problem = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Input ")
        raise SpecError(f"{name}={first['input']!r} {problem}.", "Correct the value.") from error
    return _runner(corpus).run(spec)


@cache
def _runner(corpus: Path | None) -> Runner:
    return Runner(corpus=corpus)


class ModelCache:
    """Models in memory within a number of bytes: the least recently used go first, the one asked for last stays.

    Args:
        load: loads a model by name.
        limit: bytes of weights to keep.
    """

    def __init__(self, load: Callable[[str], LoadedModel], limit: int) -> None:
        self.limit = limit
        self._load = load
        self._models: OrderedDict[str, LoadedModel] = OrderedDict()
        self._bytes: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The models in memory, the least recently used first."""
        return tuple(self._models)

    def get(self, name: str) -> LoadedModel:
        """The model, from memory or loaded now."""
        if name not in self._models:
            # A size is known once a model was here before: then room is made first, and the peak stays low.
            self._make_room(self._bytes.get(name, 0))
            loaded = self._load(name)
            self._models[name], self._bytes[name] = loaded, weight_bytes(loaded)
        self._models.move_to_end(name)
        self._make_room(0)
        return self._models[name]

    def _make_room(self, wanted: int) -> None:
        import mlx.core as mx

        kept = 0 if wanted else 1
        while len(self._models) > kept and wanted + sum(self._bytes[name] for name in self._models) > self.limit:
            self._models.popitem(last=False)
            mx.clear_cache()


def weight_bytes(loaded: LoadedModel) -> int:
    """Bytes of the parameters of a model."""
    from mlx.utils import tree_flatten

    return sum(array.nbytes for _, array in tree_flatten(loaded.model.parameters()))


def _load(name: str, cache: int) -> LoadedModel:
    import mlx.core as mx

    from swarm.experiments.models import registry

    mx.set_cache_limit(cache)
    return registry.load(name)


@contextmanager
def trial_errors() -> Iterator[None]:
    """Turn whatever a trial may raise into the error that is recorded.

    Raises:
        OutOfMemoryError, DiskFullError, NonFiniteError: what it says.
        TrialError: anything unforeseen, with the original error as its cause.
    """
    try:
        yield
    except SwarmError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"not enough memory: {error}.", "Shorten the context, or give workers more.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError("no space left on the disk.", "Free some space, or move the cache.") from error
        raise TrialError(f"{type(error).__name__}: {error}.", "See the log of the worker.") from error
    except FloatingPointError as error:
        raise NonFiniteError(f"{error}.", "Use a milder configuration.") from error
    except Exception as error:
        if any(phrase in str(error).lower() for phrase in NO_MEMORY):
            raise OutOfMemoryError(f"not enough memory: {error}.", "Shorten the context.") from error
        raise TrialError(f"{type(error).__name__}: {error}.", "This is a defect: please report it.") from error
