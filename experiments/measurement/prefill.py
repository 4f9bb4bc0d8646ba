"""The expensive trial: whole windows go through the model over the quantized cache, and their second half is scored.

The 16-bit run's logits at the scored positions are captured once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.reference_run import ScoredRun, in_16_bit, noise_floor, window_count

if TYPE_CHECKING:
    from swarm.experiments.artifacts import CaptureWriter
    from swarm.experiments.measurement.forward import ForwardPass
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec

WINDOWS = 4
"""Text windows of a trial at the usual context."""
SCORED = 32
"""Last tokens of a window, which are scored."""
CHUNK = 128
"""Tokens that are read at a time."""
NOISE_WINDOWS = 1


def scored_positions(context: int) -> NDArray[np.int64]:
    """Positions in a window whose next token is scored: evenly over the second half, the last one included."""
    half = context - context // 2
    count = min(SCORED, half)
    return context - 1 - np.arange(count)[::-1] * (half // count)


class PrefillRun(ScoredRun):
    """The windows of one model, context, replicate and logit gain, and what the 16-bit run said about them.

    Arrays: W windows, S scored positions, V tokens. `tokens` [W, context], `targets` [W, S], `logits` float32
    [S, W, V].
    """

    kind = "prefill"
    settings = {"windows": WINDOWS, "scored": SCORED, "chunk": CHUNK}  # noqa: RUF012

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Read the windows in 16 bit, and write down the logits at the scored positions."""
        # Every second window is the cheap rung's: what is promoted is not judged by the text that it was chosen on.
        text = subject.windows(spec, spec.context + 1, 2 * window_count(WINDOWS, spec.context))[1::2]
        positions = scored_positions(spec.context)
        tokens, targets = text[:, :-1], text[:, positions + 1]
        part = slice(0, NOISE_WINDOWS)
        noise = noise_floor(subject, tokens[part], targets[part], scored=positions.tolist())
        chunks = read(subject.forward, tokens, trial_caches(in_16_bit(spec), subject), CHUNK)
        rows = (np.swapaxes(logits, 0, 1) for logits in chunks)
        first = next(chunk for chunk in rows if len(chunk))
        writer.stream("logits", (len(positions), len(tokens), first.shape[-1]), np.float32, chain([first], rows))
        for name, array in (("tokens", tokens), ("targets", targets)):
            writer.save(name, array.astype(np.int32))
        writer.facts["noise_kld"] = noise

    @property
    def scored(self) -> str:
        """What is scored, in words."""
        windows, context = self.tokens.shape
        return (
            f"{windows} windows of {context} tokens, {self.targets.shape[1]} of the second half scored over all tokens"
        )

    def run(self, caches: Sequence[Any], spec: TrialSpec) -> divergence.Scores:  # noqa: ARG002
        """Read the windows over a trial's empty caches, which are filled.

        Raises:
            NonFiniteError: the run broke down.
        """
        reference = self.capture["logits"]
        found = []
        done = 0
        for logits in read(self.subject.forward, self.tokens, caches, CHUNK):
            part = slice(done, done + logits.shape[1])
            found.append(divergence.compare(np.swapaxes(reference[part], 0, 1), logits, self.targets[:, part]))
            done = part.stop
        return divergence.join(found)


def read(
    forward: ForwardPass, tokens: NDArray[np.integer], caches: Sequence[Any], size: int
) -> Iterator[NDArray[np.float32]]:
    """Windows [W, context] in chunks of a size; yields the logits at the scored positions of a chunk [W, s, V]."""
    context = tokens.shape[1]
    scored = scored_positions(context)
    for start in range(0, context, size):
        chunk = tokens[:, start : start + size]
        inside = scored[(scored >= start) & (scored < start + size)] - start
        yield forward.logits(chunk, caches, scored=inside.tolist())
