"""What attention is given on calibration text: captured once per model, for fitting, never for scoring.

The text is a part of the corpus that no scored window reads. Knows models and captures; fits nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.attention_error import LayerInputs
from swarm.experiments.measurement.listening import Listener
from swarm.kernels import attention
from swarm.kernels.cache import make_cache

if TYPE_CHECKING:
    from swarm.experiments.artifacts import Capture, Draft
    from swarm.experiments.measurement.model_under_test import Subject
    from swarm.experiments.spec import TrialSpec

WINDOWS = 2
CONTEXT = 512
TAIL = 32
KIND = "calibration"


class CalibrationSet:
    """Queries, keys and values of every layer on calibration windows, of the 16-bit run.

    Arrays: L layers, W windows, H KV heads, T prefix tokens, P tail tokens: `keys`, `values` [L, W, H, T, D],
    `tail_keys`, `tail_values` [L, W, H, P, D], `queries` float32 [L, W, Hq, P, D].
    """

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self._exact: list[NDArray[np.float32]] | None = None

    @classmethod
    def of(cls, spec: TrialSpec, subject: Subject) -> CalibrationSet:
        """The set of the trial's model and corpus, captured now if nobody did before.

        Raises:
            CorpusError: the text is too short.
            DiskFullError: there is no space for the capture.
        """
        key = subject.key(plain(spec, subject)) | {"windows": WINDOWS, "tail": TAIL}
        return cls(subject.captures.get(KIND, key, lambda draft: _write(spec, subject, draft)))

    def layers(self) -> Iterator[LayerInputs]:
        """What attention was given, one layer after the other."""
        names = ("keys", "values", "tail_keys", "tail_values", "queries")
        whole = [self.capture[name] for name in names]
        for layer, scale in enumerate(self.capture.facts["scales"]):
            keys, values, tail_keys, tail_values, queries = (array[layer] for array in whole)
            yield LayerInputs(keys, values, tail_keys, tail_values, queries, scale)

    def exact(self, attend: Callable[[], list[NDArray[np.float32]]]) -> list[NDArray[np.float32]]:
        """Attention output of every layer in 16 bit, as `attend` gives it the first time."""
        if self._exact is None:
            self._exact = attend()
        return self._exact


def plain(spec: TrialSpec, subject: Subject) -> TrialSpec:
    """The trial on whose behalf is calibrated, without what calibration does not depend on."""
    context = min(CONTEXT, subject.info.max_context)
    return spec.model_copy(update={"context": context, "replicate": 0, "logit_gain": 1.0})


def _write(spec: TrialSpec, subject: Subject, draft: Draft) -> None:
    context = plain(spec, subject).context
    tokens = subject.windows(spec, context, WINDOWS, split="calibration")
    prefix = context - min(TAIL, context // 2)
    forward = subject.forward
    caches = make_cache(subject.loaded.model)
    heard = []
    for chunk in (tokens[:, :prefix], tokens[:, prefix:]):
        listener = Listener(len(forward.layers))
        with attention.record(listener):
            forward.logits(chunk, caches, scored=(0,))
        heard.append(listener)
    before, after = heard
    for name, layers in (
        ("keys", before.keys),
        ("values", before.values),
        ("tail_keys", after.keys),
        ("tail_values", after.values),
    ):
        draft.save(name, np.stack([parts[0] for parts in layers]))
    draft.save("queries", np.stack(after.queries))
    draft.facts["scales"] = after.scales
