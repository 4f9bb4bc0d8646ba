"""Free-running answers: what the 16-bit run writes, and where and how far a quantized run parts from it.

A run along the answers of the 16-bit run tells at every token what the quantized run would have written there. Both
choose with the same random numbers where they sample, so the first other choice is where the free-running answers part:
only what follows has to be decoded token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import log
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.deploy import generation
from swarm.experiments.measurement.divergence import finite
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.prompts import WORDING, Assignment, of_replicate
from swarm.experiments.measurement.reference_run import ReferenceRun, in_16_bit
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    from swarm.experiments.artifacts import CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec

CHUNK = 32
"""Tokens that are read at a time."""
TEMPERATURE = 0.7
"""Of the answers that are sampled."""
TOP = 64
"""Tokens per position that divergence is measured over, beside the rest together."""
MOST_TOKENS = 1024
"""Tokens of the longest answer."""
ROUNDING = 1e-3
"""More than rounding changes of logits at the temperature."""
COPIED_SHARE = 3
"""A text to be copied takes the context divided by this, in tokens."""

Tokens = NDArray[np.int32]


@dataclass(frozen=True)
class Along:
    """What a run says along given answers; positions are those whose next token belongs to an answer.

    Attributes:
        choices: what it would write next, int32 [rows, positions of the text]; -1 outside of answers.
        kld: divergence from the 16-bit run [rows, positions], nats; 0 outside of answers and for the 16-bit run.
    """

    choices: Tokens
    kld: NDArray[np.float64]


class GenerationRun(ReferenceRun):
    """The answers of the 16-bit run to one prompt of each kind, each once greedy and once sampled.

    Arrays: W rows, greedy and sampled in turns; T tokens of the longest row. `tokens` [W, T]; `starts`, `ends` [W]
    where answers begin, and behind their last token; `ended` [W] whether the model ended them; `choices` [W, T] (see
    `Along`); `top` [W, T, TOP] the likeliest tokens, `log_p` float32 their log-probabilities.
    """

    kind = "generation"
    settings = {"chunk": CHUNK, "top": TOP, "longest": MOST_TOKENS, "wording": WORDING}  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        names = ("tokens", "starts", "ends", "ended", "choices")
        self.tokens, self.starts, self.ends, self.ended, self.choices = (np.array(self.capture[n]) for n in names)

    @classmethod
    def write(cls, spec: TrialSpec, subject: ModelUnderTest, writer: CaptureWriter) -> None:
        """Let the model answer in 16 bit, then read its answers once more."""
        asked = _encoded(spec, subject)
        longest = [min(spec.context, len(tokens) + MOST_TOKENS) for tokens in asked]
        ends_with = sorted(int(token) for token in subject.loaded.tokenizer.eos_token_ids)
        writer.facts["ends_with"] = ends_with
        plain = in_16_bit(spec)
        decoder = Decoder(subject, spec.replicate, ends_with)
        tokens, ends, ended = decoder.decode(trial_caches(plain, subject), asked, longest)
        starts = np.array([len(row) for row in asked])
        shape = (*tokens.shape, TOP)
        top, log_p = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        choices = np.full(tokens.shape, -1, np.int32)
        for row, place, logits in _positions(subject, trial_caches(plain, subject), tokens, starts, ends):
            top[row, place] = np.sort(np.argpartition(logits, -TOP)[-TOP:])
            log_p[row, place] = logits[top[row, place]] - _log_sum(logits)
            choices[row, place] = decoder.choice(row, place, logits)
        for name, array in (("tokens", tokens), ("starts", starts), ("ends", ends), ("choices", choices), ("top", top)):
            writer.save(name, array.astype(np.int32))
        writer.save("ended", ended)
        writer.save("log_p", log_p)

    @property
    def asked(self) -> str:
        """What was asked, in words."""
        lengths = self.ends - self.starts
        return (
            f"{len(lengths) // 2} prompts, each answered greedily and at temperature {TEMPERATURE:g}, "
            f"{lengths.min()} to {lengths.max()} tokens in 16 bit"
        )

    def along(self, caches: Sequence[Any], spec: TrialSpec) -> Along:
        """Read prompts and 16-bit answers over a trial's empty caches, which are filled.

        Raises:
            NonFiniteError: the run broke down.
        """
        decoder = Decoder(self.subject, spec.replicate, self.capture.facts["ends_with"])
        top, log_p = self.capture["top"], self.capture["log_p"]
        choices, kld = np.full(self.tokens.shape, -1, np.int32), np.zeros(self.tokens.shape)
        for row, place, logits in _positions(self.subject, caches, self.tokens, self.starts, self.ends):
            choices[row, place] = decoder.choice(row, place, logits)
            found = logits[top[row, place]] - _log_sum(logits)
            kld[row, place] = _coarse_kld(log_p[row, place].astype(np.float64), found)
        return Along(choices, kld)

    def parted(self, along: Along) -> NDArray[np.int64]:
        """Per row the place of the first token that a run would have written otherwise; the end if there is none."""
        other = (along.choices != self.choices)[:, :-1]
        first = np.where(other.any(1), other.argmax(1) + 1, self.tokens.shape[1])
        parted: NDArray[np.int64] = np.minimum(first, self.ends)
        return parted

    def free(
        self, caches: Sequence[Any], spec: TrialSpec, parted: NDArray[np.int64]
    ) -> tuple[list[list[int]], list[bool]]:
        """The answers of a run that goes on by itself where it parts, over empty caches, and whether it ended them."""
        decoder = Decoder(self.subject, spec.replicate, self.capture.facts["ends_with"])
        forced = [self.tokens[row, :place].tolist() for row, place in enumerate(parted)]
        longest = [
            min(spec.context, int(start) + MOST_TOKENS) if place < end else int(place)
            for start, place, end in zip(self.starts, parted, self.ends, strict=True)
        ]
        tokens, ends, ended = decoder.decode(caches, forced, longest)
        same = parted == self.ends
        answers = [
            tokens[row, start:end].tolist() for row, (start, end) in enumerate(zip(self.starts, ends, strict=True))
        ]
        return answers, np.where(same, self.ended, ended).tolist()

    @property
    def answers(self) -> list[list[int]]:
        """The answers of the 16-bit run."""
        places = zip(self.starts, self.ends, strict=True)
        return [self.tokens[row, start:end].tolist() for row, (start, end) in enumerate(places)]


def rows(replicate: int) -> tuple[Assignment, ...]:
    """The prompt of each row."""
    return tuple(prompt for prompt in of_replicate(replicate) for _ in ("greedy", "sampled"))


def _encoded(spec: TrialSpec, subject: ModelUnderTest) -> list[list[int]]:
    """Token ids of each row's prompt.

    Raises:
        SpecError: the context has no room for a prompt and as long an answer.
    """
    size = spec.context // COPIED_SHARE
    (window,) = subject.windows(spec, size + 1, 1)
    text = str(subject.loaded.tokenizer.decode(window[1:].tolist())).strip()
    asked = [generation.encode(subject.loaded, prompt.filled(spec.replicate, text)) for prompt in rows(spec.replicate)]
    longest = max(map(len, asked))
    if 2 * longest > spec.context:
        raise SpecError(
            f"context={spec.context} is too short for prompts of up to {longest} tokens and as long answers.",
            "Use a longer context.",
        )
    return asked


class Decoder:
    """Writes rows token by token; odd rows sample with random numbers that replicate, row and place decide."""

    def __init__(self, subject: ModelUnderTest, replicate: int, ends_with: Sequence[int]) -> None:
        self._subject = subject
        self._replicate = replicate
        self._ends_with = set(ends_with)

    def choice(self, row: int, place: int, logits: NDArray[np.float32]) -> int:
        """The token behind a place of a row. Gumbel noise on the logits makes the likeliest one a sample."""
        likeliest = int(logits.argmax())
        if row % 2 == 0:
            return likeliest
        drawn = np.random.default_rng([self._replicate, row, place]).random(len(logits))
        # Few tokens come near enough to the likeliest for the largest noise to lift them above it: only theirs is made.
        short_of = _gumbel(drawn.min()) - _gumbel(drawn[likeliest]) + ROUNDING
        near = np.flatnonzero(logits >= logits[likeliest] - TEMPERATURE * short_of)
        return int(near[(logits[near] / TEMPERATURE + _gumbel(drawn[near])).argmax()])

    def decode(
        self, caches: Sequence[Any], forced: Sequence[Sequence[int]], longest: Sequence[int]
    ) -> tuple[Tokens, NDArray[np.int64], NDArray[np.bool_]]:
        """Rows that begin with forced tokens and go on freely, up to their longest length.

        All rows advance by a token at a time: a row with a short beginning writes while another is still being read.

        Returns:
            tokens [rows, longest of all] (the last token repeated behind the end), ends [rows], whether they ended.
        """
        count, total = len(forced), max(longest)
        tokens = np.zeros((count, total), np.int32)
        for row, begin in enumerate(forced):
            tokens[row, : len(begin)] = begin
        ends = np.array(longest)
        ended = np.zeros(count, np.bool_)
        shared = min(map(len, forced)) - 1
        for start in range(0, shared, CHUNK):
            self._subject.forward.logits(tokens[:, start : min(start + CHUNK, shared)], caches, scored=())
        for place in range(shared, total - 1):
            if place + 1 >= ends.max():
                break
            logits = finite(self._subject.forward.logits(tokens[:, place : place + 1], caches))
            for row in range(count):
                if place + 1 < len(forced[row]):
                    continue
                over = place + 1 >= ends[row]
                tokens[row, place + 1] = tokens[row, place] if over else self.choice(row, place, logits[row, 0])
                if not over and int(tokens[row, place + 1]) in self._ends_with:
                    ends[row], ended[row] = place + 2, True
        return tokens, ends, ended


def _positions(
    subject: ModelUnderTest, caches: Sequence[Any], tokens: Tokens, starts: NDArray[Any], ends: NDArray[Any]
) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Read rows in chunks; yields row, place and logits [V] of each place whose next token belongs to an answer."""
    import mlx.core as mx

    for first in range(0, tokens.shape[1], CHUNK):
        chunk = tokens[:, first : first + CHUNK]
        for row, held in enumerate(subject.forward.rows_of_logits(chunk, caches)):
            low, high = max(first, int(starts[row]) - 1), min(first + chunk.shape[1], int(ends[row]) - 1)
            if low >= high:
                continue
            logits = finite(np.array(held[low - first : high - first].astype(mx.float32), copy=False))
            for place in range(low, high):
                yield row, place, logits[place - low]


def _gumbel(drawn: Any) -> Any:
    """Gumbel noise of numbers drawn from [0, 1), as numpy makes it of them."""
    return -np.log(-np.log(1.0 - drawn))


def _log_sum(logits: NDArray[np.float32]) -> float:
    highest = logits.max()
    return float(highest) + log(float(np.exp(logits - highest).sum(dtype=np.float64)))


def _coarse_kld(p_log: NDArray[np.float64], q_log: NDArray[np.float64]) -> float:
    """Divergence between distributions over some tokens and the rest as one: at most that over all tokens."""
    q_log = q_log.astype(np.float32).astype(np.float64)  # as captures hold the other
    p_rest, q_rest = (max(1e-12, 1.0 - float(np.exp(logs).sum())) for logs in (p_log, q_log))
    kld = float((np.exp(p_log) * (p_log - q_log)).sum()) + p_rest * log(p_rest / q_rest)
    return max(0.0, kld)
