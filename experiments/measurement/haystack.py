"""Texts that hide facts, and questions about them: the kinds of RULER (arXiv 2404.06654) in words of our own.

Every text hides facts of all kinds, told apart by their wording, so that one reading serves many questions. The filler
is the corpus; where facts lie follows from the number of the text alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from swarm.experiments.text import GOLDEN

Kind = Literal["single", "multi_key", "multi_value", "tracing", "aggregation"]
KINDS: tuple[Kind, ...] = get_args(Kind)

INTRODUCTION = "Remember the facts in this text. Questions about them follow.\n\n"
WORDING = 1
"""Raised when texts, facts or questions change: captures of other ones are made again."""
KEYS = 4
"""Facts of the same wording, of which a multi-key question asks for one."""
ASKED_KEYS = 2
"""Keys that are asked for, of those hidden."""
VALUES = 3
"""Values that belong to one key."""
HOPS = 3
"""Facts that a chain of references leads through."""
COMMON_TIMES = 6
"""How often the most frequent word of an aggregation is written."""
OTHER_WORDS = 6
"""Words beside the commonest."""
FACTS_SHARE = 0.5
"""The largest part of a text that facts may take; kinds that do not fit are left out."""

PLACES = ("harbour", "library", "station", "museum", "bakery", "theatre", "garden", "castle", "market", "school")
NAMES = ("Anna", "Peter", "Maria", "David", "Laura", "Simon", "Clara", "Martin", "Julia", "Robert", "Emma", "Paul")
TOWNS = ("Paris", "London", "Berlin", "Rome", "Madrid", "Vienna", "Dublin", "Oslo", "Prague", "Athens")
WORDS = ("apple", "river", "stone", "cloud", "horse", "paper", "music", "bread", "glass", "tiger", "lemon", "chair")


@dataclass(frozen=True)
class Fact:
    """A sentence that begins with a space, and where it is put: 0 is the beginning of the text, 1 its end."""

    text: str
    depth: float


@dataclass(frozen=True)
class HiddenFact:
    """A question, the words that the answer begins with, and how it goes on.

    `depth` is where the first fact lies that the answer needs.
    """

    kind: Kind
    text: str
    lead: str
    answer: str
    depth: float


@dataclass(frozen=True)
class Puzzle:
    """The facts of one kind in one text, and what is asked about them."""

    kind: Kind
    facts: tuple[Fact, ...]
    questions: tuple[HiddenFact, ...]


def puzzles(number: int) -> Iterator[Puzzle]:
    """What the text with this number hides, kind by kind; texts of consecutive numbers cover all depths evenly."""
    rng = np.random.default_rng([number, 0x4E])
    shift = number * GOLDEN % 1
    yield _single(rng, shift)
    yield _multi_key(rng, shift)
    yield _multi_value(rng, shift)
    yield _tracing(rng, shift)
    yield _aggregation(rng, shift)


def _numbers(rng: np.random.Generator, count: int) -> list[str]:
    return [str(number) for number in rng.choice(np.arange(10_000, 100_000), count, replace=False)]


def _spread(count: int, shift: float) -> list[float]:
    """Depths, one in each of `count` equal parts of the text."""
    return [(part + shift) / count for part in range(count)]


def _single(rng: np.random.Generator, shift: float) -> Puzzle:
    (number,), place = _numbers(rng, 1), rng.choice(PLACES)
    lead = f"The secret of the {place} is"
    fact = Fact(f" {lead} {number}.", shift)
    question = HiddenFact("single", f"What is the secret of the {place}?", lead, f" {number}", shift)
    return Puzzle("single", (fact,), (question,))


def _multi_key(rng: np.random.Generator, shift: float) -> Puzzle:
    names, numbers = rng.choice(NAMES, KEYS, replace=False), _numbers(rng, KEYS)
    depths = _spread(KEYS, shift)
    leads = [f"The number of {name} is" for name in names]
    facts = [Fact(f" {lead} {number}.", depth) for lead, number, depth in zip(leads, numbers, depths, strict=True)]
    questions = [
        HiddenFact("multi_key", f"What is the number of {names[i]}?", leads[i], f" {numbers[i]}", depths[i])
        for i in sorted(rng.choice(KEYS, ASKED_KEYS, replace=False))
    ]
    return Puzzle("multi_key", tuple(facts), tuple(questions))


def _multi_value(rng: np.random.Generator, shift: float) -> Puzzle:
    town, numbers, depths = rng.choice(TOWNS), _numbers(rng, VALUES), _spread(VALUES, shift)
    facts = [Fact(f" One ticket to {town} is {n}.", depth) for n, depth in zip(numbers, depths, strict=True)]
    text = f"Which tickets to {town} are there? List all {VALUES}, the first one first."
    question = HiddenFact("multi_value", text, f"All tickets to {town}:", f" {', '.join(numbers)}", depths[0])
    return Puzzle("multi_value", tuple(facts), (question,))


def _tracing(rng: np.random.Generator, shift: float) -> Puzzle:
    names = ["".join(rng.choice(list("BDFGKLMNPRSTVZ"), 3)) for _ in range(HOPS)]
    (value,), depths = _numbers(rng, 1), _spread(HOPS, shift)
    sources = (value, *names[:-1])
    way = " = ".join(reversed(sources))
    facts = [Fact(f" VAR {n} = {s}.", depth) for n, s, depth in zip(names, sources, depths, strict=True)]
    text = f"Trace the variable {names[-1]} to its number, step by step, as in VAR A = B = C = 12."
    question = HiddenFact("tracing", text, f"VAR {names[-1]} =", f" {way}", depths[0])
    return Puzzle("tracing", tuple(facts), (question,))


def _aggregation(rng: np.random.Generator, shift: float) -> Puzzle:
    common, *others = rng.choice(WORDS, 1 + OTHER_WORDS, replace=False)
    words = rng.permutation([common] * COMMON_TIMES + others)
    depths = _spread(len(words), shift)
    facts = [Fact(f" Vote: {word}.", depth) for word, depth in zip(words, depths, strict=True)]
    lead = "Most often named: Vote:"
    question = HiddenFact("aggregation", "Which word got the most votes?", lead, f" {common}", depths[0])
    return Puzzle("aggregation", tuple(facts), (question,))
