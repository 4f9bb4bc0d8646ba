"""What a cache loses on questions about long texts, question by question: the losses that `decide` reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from typing import Literal

import numpy as np

from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels.errors import UsageError

Score = Literal["match", "p"]
"""Exact match of the greedy answer, or the probability of the right one."""


def question_losses(
    run: Callable[[TrialSpec], Measurement], spec: TrialSpec, score: Score = "match"
) -> Iterator[list[float]]:
    """Without end, replicate by replicate, the score of the 16-bit run less that of the quantized one, per question.

    Within a replicate questions come in a random order, which follows from its number. An answer that only the
    quantized run gets right is a negative loss.

    Args:
        run: measures a trial.
        spec: a trial of protocol `retrieval`; its replicate is the first.
        score: what an answer counts.

    Raises:
        UsageError: 16 bit answers no question of the first replicate, so that nothing could be lost.
    """
    for replicate in count(spec.replicate):
        found = run(spec.model_copy(update={"replicate": replicate}))
        exact = found.arrays[f"item_{score}_16bit"]
        if replicate == spec.replicate and not any(found.arrays["item_match_16bit"]):
            raise UsageError(
                f"{spec.model} answers none of {len(exact)} questions about texts of {spec.context} tokens in 16 bit: "
                "there is nothing to lose.",
                "Use a shorter context or another model.",
            )
        yield in_random_order(np.subtract(exact, found.arrays[f"item_{score}"]).tolist(), replicate)


def in_random_order(losses: list[float], replicate: int) -> list[float]:
    """The losses of a replicate's questions in an order that does not tell kinds and texts."""
    order = np.random.default_rng([7, replicate]).permutation(len(losses))
    return [losses[place] for place in order]
