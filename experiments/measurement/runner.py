"""Runs trials in this process: models in memory, threads and BLAS in order, failures turned into outcomes.

Knows models, protocols and captures; knows no store, no pool and no agents.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.experiments import paths
from swarm.experiments.artifacts import CaptureStore
from swarm.experiments.measurement.model_under_test import Subject
from swarm.experiments.measurement.shelf import Shelf
from swarm.experiments.protocols import base as protocols
from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels import blas
from swarm.kernels.errors import (
    DiskFullError,
    NonFiniteError,
    OutOfMemoryError,
    SwarmError,
    TrialError,
)

if TYPE_CHECKING:
    from swarm.experiments.models.base import LoadedModel

GIB = 1 << 30
MLX_CACHE_BYTES = 256 << 20
NO_MEMORY = ("out of memory", "unable to allocate", "failed to allocate", "bad_alloc", "cannot allocate")


class Runner:
    """Measures trials, one at a time. One runner per process: it owns the BLAS threads and the models in memory.

    Args:
        cache_dir: where captures are kept; the user cache by default.
        corpus: the text that is read; CPython's topic help by default.
        threads: threads of the matrix products. With 1, results are the same bit for bit in every process.
        memory: bytes of weights to keep; the least recently used models go first. The model in use always stays.

    Raises:
        CorpusError: the text cannot be read.
    """

    def __init__(
        self, cache_dir: Path | None = None, corpus: Path | None = None, threads: int = 1, memory: int = 9 * GIB // 4
    ) -> None:
        blas.use_openblas(threads)
        from swarm.experiments.text import Corpus

        self.corpus = Corpus.open(corpus)
        self.captures = CaptureStore((cache_dir or paths.cache_dir()) / "captures")
        self.threads = threads
        self.shelf = Shelf(_load, memory)
        self._subjects: dict[str, Subject] = {}

    def prepare(
        self, model: str, context: int = 512, replicate: int = 0, protocol: str = "quality", rung: int = 0
    ) -> None:
        """Load a model and make the captures that trials of this kind share, unless another process did.

        Raises:
            SpecError: the model cannot do that.
            TrialError: it failed, with the reason.
        """
        spec = TrialSpec(model=model, context=context, replicate=replicate, protocol=protocol, rung=rung)
        subject, plan = self.subject(model), protocols.protocol(protocol)
        with outcomes():
            plan.check(spec, subject)
            plan.prepare(spec, subject)

    def run(self, spec: TrialSpec) -> Measurement:
        """Measure a trial; `seconds["total"]` is its wall time, loading included.

        Raises:
            UsageError: the specification fits no protocol, model or text.
            TrialError: it ended without a measurement; the subclass says how.
        """
        start = time.perf_counter()
        subject, plan = self.subject(spec.model), protocols.protocol(spec.protocol)
        with outcomes():
            plan.check(spec, subject)
            measured = plan.measure(spec, subject)
        seconds = {**measured.seconds, "total": time.perf_counter() - start}
        return measured.model_copy(update={"seconds": seconds})

    def subject(self, model: str) -> Subject:
        """The model as an experiment sees it, kept for the next trial."""
        if model not in self._subjects:
            from swarm.experiments.models import registry

            self._subjects[model] = Subject(model, registry.describe, self.shelf.get, self.corpus, self.captures)
        return self._subjects[model]


def _load(name: str) -> LoadedModel:
    import mlx.core as mx

    from swarm.experiments.models import registry

    mx.set_cache_limit(MLX_CACHE_BYTES)
    return registry.load(name)


@contextmanager
def outcomes() -> Iterator[None]:
    """Turn what a trial may raise into the outcome that is recorded.

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
