"""What an engine trial reads: a prompt that hides facts, questions about them, and the text that goes on behind it.

Rates, answers and divergence are all measured behind the same prompt, so that an engine that keeps what it has read
computes it once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from swarm.experiments.measurement.haystack import FACTS_SHARE, INTRODUCTION, Fact, HiddenFact, puzzles
from swarm.experiments.text import GOLDEN
from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.experiments.engines.run.startable import Pieces
    from swarm.experiments.spec import TrialSpec

BLOCKS = 8
"""Groups of consecutive places behind the prompt: the windows over which errors of the divergence are computed."""
BLOCK_PIECES = 12
"""Pieces from one group to the next."""
BLOCK_PLACES = 6
"""Consecutive places of a group at which the next token is predicted; the pieces before them are only read."""
KINDS = 2
"""How many kinds of facts are hidden."""
CHARACTERS_PER_PIECE = 12
"""Characters that are kept for a piece behind the prompt: more than any tokenizer joins on average."""
SENTENCE_END = re.compile(r"[.!?\n](?=\s)")


@dataclass(frozen=True)
class EngineReading:
    """The texts of one trial. A question ends with the beginning of its answer; `rest` continues the prompt."""

    prompt: str
    questions: tuple[HiddenFact, ...]
    rest: str

    @classmethod
    def of(cls, spec: TrialSpec, text: str, characters: float) -> Self:
        """The part of a text that a trial reads; replicates begin elsewhere, and hide other facts.

        Args:
            spec: the trial.
            text: the whole text.
            characters: of a token of the engine on average.

        Raises:
            UsageError: the text is too short.
        """
        wanted = round((spec.context - behind(spec.context)) * characters)
        length = wanted + behind(spec.context) * CHARACTERS_PER_PIECE
        if len(text) < length:
            raise UsageError(
                f"the text has {len(text)} characters, and a trial of {spec.context} tokens reads {length}.",
                "Give a longer text with --corpus, or a shorter context.",
            )
        facts, questions = _facts(spec.replicate, FACTS_SHARE * wanted - len(INTRODUCTION))
        filler = wanted - sum(len(fact.text) for fact in facts) - (len(INTRODUCTION) if facts else 0)
        share = (0.5 + spec.replicate * GOLDEN) % 1
        start = text.rfind("\n", 0, int(share * (len(text) - length))) + 1
        end = max(start + 1, text.rfind(" ", start, start + filler))
        hidden = _hide(text[start:end].rstrip(), facts)
        return cls(INTRODUCTION * bool(facts) + hidden, questions, text[end : start + length])

    def asked(self, question: HiddenFact) -> str:
        """The prompt with a question."""
        return f"{self.prompt}\n\nQuestion: {question.text}\nAnswer: {question.lead}"

    @property
    def whole(self) -> str:
        """The prompt with the text that goes on behind it."""
        return self.prompt + self.rest


def behind(context: int) -> int:
    """Pieces behind the prompt that belong to the context."""
    return BLOCKS * _step(context)


def places(before: int, pieces: Pieces, context: int) -> list[int]:
    """How many pieces come before each place that is predicted, ascending.

    Args:
        before: pieces of the prompt.
        pieces: those of the whole text.
        context: tokens of the trial.

    Raises:
        UsageError: the pieces are too few.
    """
    step = _step(context)
    if len(pieces) < before + behind(context):
        raise UsageError(
            f"the text has {len(pieces)} of {before + behind(context)} tokens from where the trial begins.",
            "Give a longer text with --corpus, or a shorter context.",
        )
    ends = [before + step * (block + 1) for block in range(BLOCKS)]
    count = min(BLOCK_PLACES, step)
    return [end - count + place for end in ends for place in range(count)]


def answers(question: HiddenFact, text: str) -> bool:
    """Whether a text that a question went on with begins with the right answer."""
    right, said = question.answer.strip(), text.lstrip()
    return said.startswith(right) and not said[len(right) : len(right) + 1].isalnum()


def _step(context: int) -> int:
    return min(BLOCK_PIECES, context // (4 * BLOCKS))


def _facts(number: int, room: float) -> tuple[list[Fact], tuple[HiddenFact, ...]]:
    """Facts of the first kinds and all questions about them, as many kinds as have room; in characters."""
    facts: list[Fact] = []
    questions: list[HiddenFact] = []
    for _, puzzle in zip(range(KINDS), puzzles(number), strict=False):
        if sum(len(fact.text) for fact in (*facts, *puzzle.facts)) <= room:
            facts += puzzle.facts
            questions += puzzle.questions
    return facts, tuple(questions)


def _hide(filler: str, facts: Sequence[Fact]) -> str:
    """Facts in the order of their depths, each behind the sentence that ends nearest."""
    ends = [0, *(found.end() for found in SENTENCE_END.finditer(filler)), len(filler)]
    pieces, done = [], 0
    for fact in sorted(facts, key=lambda fact: fact.depth):
        place = max(done, min(ends, key=lambda end: abs(end - fact.depth * len(filler))))
        pieces += [filler[done:place], fact.text]
        done = place
    return "".join((*pieces, filler[done:]))
