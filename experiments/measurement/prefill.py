"""The dear trial: whole windows go through the model over the quantized cache, and their second half is scored.

The 16-bit run's logits at the scored positions are captured once. Knows models, caches and captures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.decode import Decoded, gained_caches
from swarm.experiments.measurement.forward import ForwardPass
from swarm.experiments.measurement.noise import floor
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.artifacts import Capture, Draft
    from swarm.experiments.measurement.model_under_test import Subject
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.cache import PackedKVCache

WINDOWS = 4
SCORED = 32
CHUNK = 128
NOISE_WINDOWS = 1
KIND = "prefill"


def scored_positions(context: int) -> NDArray[np.int64]:
    """Positions in a window whose next token is scored: evenly over the second half, the last one included."""
    half = context // 2
    return (
        context - 1 - np.arange(min(SCORED, context - half))[::-1] * ((context - half) // min(SCORED, context - half))
    )


class PrefillSet:
    """The windows of one model, context, replicate and logit gain, and what the 16-bit run said about them.

    Arrays: W windows, S scored positions, V tokens. `tokens` [W, context], `targets` [W, S], `logits` float32
    [S, W, V].
    """

    def __init__(self, capture: Capture, subject: Subject) -> None:
        self.capture = capture
        self.subject = subject
        self.tokens, self.targets = (np.array(capture[name]) for name in ("tokens", "targets"))

    @classmethod
    def of(cls, spec: TrialSpec, subject: Subject) -> PrefillSet:
        """The set that a trial needs, captured now if nobody did before.

        Raises:
            CorpusError: the text is too short.
            DiskFullError: there is no space for the capture.
            NonFiniteError: the 16-bit run itself is not finite.
        """
        key = subject.key(spec) | {"windows": WINDOWS, "scored": SCORED, "chunk": CHUNK}
        return cls(subject.captures.get(KIND, key, lambda draft: _capture(spec, subject, draft)), subject)

    @property
    def noise_kld(self) -> Sequence[float]:
        """Divergence per window between two 16-bit runs (see `noise`), nats."""
        return tuple(self.capture.facts["noise_kld"])

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        windows, context = self.tokens.shape
        return (
            f"{windows} windows of {context} tokens, {self.targets.shape[1]} of the second half scored over all tokens"
        )

    def run(self, spec: TrialSpec) -> Decoded:
        """Read the windows over the quantized cache.

        Raises:
            NonFiniteError: the run broke down.
        """
        caches = gained_caches(self.subject, spec)
        reference = self.capture["logits"]
        found = []
        done = 0
        for logits in read(self.subject.forward, self.tokens, caches, CHUNK):
            part = slice(done, done + logits.shape[1])
            found.append(divergence.compare(np.swapaxes(reference[part], 0, 1), logits, self.targets[:, part]))
            done = part.stop
        return Decoded(divergence.join(found), caches)


def read(
    forward: ForwardPass, tokens: NDArray[np.integer], caches: Sequence[PackedKVCache], size: int
) -> Iterator[NDArray[np.float32]]:
    """Windows [W, context] in chunks of a size; yields the logits at the scored positions of a chunk [W, s, V]."""
    context = tokens.shape[1]
    scored = scored_positions(context)
    for start in range(0, context, size):
        chunk = tokens[:, start : start + size]
        inside = scored[(scored >= start) & (scored < start + size)] - start
        yield forward.logits(chunk, caches, scored=inside.tolist())


def _capture(spec: TrialSpec, subject: Subject, draft: Draft) -> None:
    # Every second window is the cheap rung's: what is promoted is not judged by the text that it was chosen on.
    text = subject.windows(spec, spec.context + 1, 2 * WINDOWS)[1::2]
    tokens, targets = text[:, :-1], text[:, scored_positions(spec.context) + 1]
    plain = spec.model_copy(update={"kv": KVSpec()})
    positions = scored_positions(spec.context)
    part = slice(0, NOISE_WINDOWS)
    noise = floor(subject, tokens[part], targets[part], scored=positions.tolist())
    rows = (np.swapaxes(x, 0, 1) for x in read(subject.forward, tokens, gained_caches(subject, plain), CHUNK))
    first = next(chunk for chunk in rows if len(chunk))
    shape = (len(positions), len(tokens), first.shape[-1])
    draft.stream("logits", shape, np.float32, chain([first], rows))
    for name, array in (("tokens", tokens), ("targets", targets)):
        draft.save(name, array.astype(np.int32))
    draft.facts["noise_kld"] = noise
