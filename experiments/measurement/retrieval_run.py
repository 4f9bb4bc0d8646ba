"""The 16-bit run of a retrieval trial: texts that hide facts, read once, and how well it answers questions about them.

A greedy answer equals the right one exactly when every token of the right one is the likeliest after those before it,
and what follows does not go on with its last word. So one pass over the right answer gives both readings: its
probability, and whether the free-running answer matches it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.divergence import finite
from swarm.experiments.measurement.haystack import KINDS, WORDING
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.reference_run import (
    Prefix,
    ReferenceRun,
    in_16_bit,
    to_file,
)
from swarm.experiments.measurement.retrieval_texts import TEXTS, RetrievalTexts
from swarm.experiments.measurement.states import save_states, states_of
from swarm.kernels import attention
from swarm.kernels.model_cache import other_caches

if TYPE_CHECKING:
    from swarm.experiments.artifacts import BlockFile, CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.attention import Recorded

CHUNK = 128
"""Tokens that are read at a time."""


@dataclass(frozen=True)
class Answers:
    """How a run answers; every array is [texts, questions].

    Attributes:
        nll: negative logarithm of the probability of the right answer, nats.
        matches: whether the greedy answer is the right one.
    """

    nll: NDArray[np.float64]
    matches: NDArray[np.bool_]


class RetrievalRun(ReferenceRun):
    """The texts of one model, context, replicate and logit gain, and how the 16-bit run answers.

    Arrays: L a layer, W texts, H KV heads, T tokens of a text, Q questions, S tokens of a question, A of the longest
    answer. `keys.L`, `values.L` [W, H, T, D]; `tokens` [W, T]; `questions` [W, Q, S + A], filled up at the left with
    text and at the right by repeating; `lengths` [W, Q] tokens of the answers; `depths` [W, Q]; `kinds` [Q];
    `continues` [V] whether a token goes on with the word before it; `nll`, `matches` [W, Q] 16 bit's answers.
    """

    kind = "retrieval"
    settings = {"texts": TEXTS, "chunk": CHUNK, "wording": WORDING}  # noqa: RUF012

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Hide the facts, read the texts in 16 bit and ask the questions."""
        texts = RetrievalTexts(spec, subject)
        caches = trial_caches(in_16_bit(spec), subject)
        with attention.record(_Blocks(writer, subject.info.kv_layers, texts.tokens.shape)):
            read(subject, texts.tokens, caches)
        save_states(writer, states_of(other_caches(caches)))
        for name, array in (
            ("tokens", texts.tokens),
            ("questions", texts.questions),
            ("lengths", texts.lengths),
            ("kinds", texts.kinds),
        ):
            writer.save(name, array.astype(np.int32))
        writer.save("depths", texts.depths)
        writer.save("continues", texts.continues)
        found = ask(subject, caches, texts.questions, texts.lengths, texts.continues)
        writer.save("nll", found.nll)
        writer.save("matches", found.matches)

    @property
    def reference(self) -> Answers:
        """How the 16-bit run answers."""
        return Answers(np.array(self.capture["nll"]), np.array(self.capture["matches"]))

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each question of a text."""
        return tuple(KINDS[number] for number in self.capture["kinds"])

    @property
    def depths(self) -> NDArray[np.float64]:
        """Where the first fact lies that an answer needs, as a share of the text [texts, questions]."""
        return np.array(self.capture["depths"])

    @property
    def asked(self) -> str:
        """What is asked, in words."""
        texts, questions, last = self.capture["questions"].shape
        tokens = self.capture["tokens"].shape[1] + last
        return f"{texts} texts of {tokens} tokens with {questions} questions each"

    def fill(self, caches: Sequence[Any]) -> None:
        """Put the texts, as 16 bit read them, into a trial's empty caches."""
        Prefix.of(self.capture).put(caches)

    def read(self, caches: Sequence[Any]) -> None:
        """Read the texts over a trial's empty caches."""
        read(self.subject, np.array(self.capture["tokens"]), caches)

    def ask(self, caches: Sequence[Any]) -> Answers:
        """Ask the questions over caches that hold the texts; they stay as they are.

        Raises:
            NonFiniteError: the run broke down.
        """
        questions, lengths, continues = (np.array(self.capture[n]) for n in ("questions", "lengths", "continues"))
        return ask(self.subject, caches, questions, lengths, continues)


def read(subject: ModelUnderTest, tokens: NDArray[np.integer], caches: Sequence[Any]) -> None:
    """Read texts [W, T] into empty caches in chunks."""
    for start in range(0, tokens.shape[1], CHUNK):
        subject.forward.logits(tokens[:, start : start + CHUNK], caches, scored=())


def ask(
    subject: ModelUnderTest,
    caches: Sequence[Any],
    questions: NDArray[np.integer],
    lengths: NDArray[np.integer],
    continues: NDArray[np.bool_],
) -> Answers:
    """Read each question and its right answer over what the caches hold; they stay as they are.

    Raises:
        NonFiniteError: the run broke down.
    """
    longest = int(lengths.max())
    first = questions.shape[2] - longest - 1
    nll, matches = np.zeros(lengths.shape), np.zeros(lengths.shape, np.bool_)
    for number in range(questions.shape[1]):
        tokens = questions[:, number]
        logits = finite(subject.forward.logits(tokens, copy.deepcopy(caches), scored=range(first, tokens.shape[1])))
        likeliest = logits.argmax(-1)
        for row, length in enumerate(lengths[:, number]):
            answer = tokens[row, first + 1 : first + 1 + length]
            nll[row, number] = _nll(logits[row, :length], answer)
            exact = np.array_equal(likeliest[row, :length], answer)
            matches[row, number] = exact and not continues[likeliest[row, length]]
    return Answers(nll, matches)


def _nll(logits: NDArray[np.float32], tokens: NDArray[np.integer]) -> float:
    """-ln of the probability of a run of tokens [n] under its logits [n, V]."""
    wide = logits.astype(np.float64)
    highest = wide.max(-1)
    norm = highest + np.log(np.exp(wide - highest[:, None]).sum(-1))
    return float((norm - wide[np.arange(len(tokens)), tokens]).sum())


class _Blocks:
    """Writes keys and values of every call into a capture as they come: a listener for `attention.record`."""

    def __init__(self, writer: CaptureWriter, layers: Sequence[int], shape: tuple[int, ...]) -> None:
        self._writer = writer
        self._at = {layer: at for at, layer in enumerate(layers)}
        self._shape = shape
        self._files: dict[str, BlockFile] = {}

    def __call__(self, call: Recorded) -> None:
        """Write down one call."""
        for side, given in (("keys", call.keys), ("values", call.values)):
            block = to_file(given)
            name = f"{side}.{self._at[call.layer]}"
            if name not in self._files:
                shape = (len(block), block.shape[1], self._shape[1], block.shape[3])
                self._files[name] = self._writer.blocks(name, shape, block.dtype)
            self._files[name].put((0, 0, call.start, 0), block)
