"""What of a server is tested: each feature beside the same prompt computed anew, alone, in one piece."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from swarm.experiments.engines.verify.answers import Answer, ServerUnderTest, Top, difference

HEAD, TAIL = 2, 3
"""Tokens that are generated before a place where a prompt may end as well, and from there on."""
GENERATED = HEAD + TAIL
TOGETHER = 20
"""Tokens that each of several clients asks for, so that all are answered at the same time for a while."""
SPARE = 8
"""Tokens by which a prompt may miss the number that it was cut for."""
BEHIND = 6
"""Tokens of a prompt behind the border that it crosses."""


@dataclass(frozen=True)
class Pair:
    """The log-probabilities of the same positions, computed in two ways."""

    reference: tuple[Top, ...]
    other: tuple[Top, ...]
    cached: int | None = None
    """Prompt tokens that the other was not computed from again, None where the server does not say."""

    @property
    def difference(self) -> float | None:
        """Mean absolute difference in nats, None where the two have no position in common."""
        return difference(self.reference, self.other)

    @property
    def begins_alike(self) -> bool:
        """Whether both find the same token likeliest at the first position: else the prompts had other tokens."""
        first, second = (max(tops[0], key=tops[0].__getitem__) for tops in (self.reference, self.other))
        return first == second


class Texts:
    """Prompts cut from a text for one server.

    Args:
        text: what they are cut from.
        seed: decides where.
        characters: of a token, as measured on the server.
    """

    def __init__(self, text: str, seed: Sequence[int], characters: float) -> None:
        self._text = " ".join(text.split())
        self._seed = tuple(seed)
        self._rng = np.random.default_rng(self._seed)
        self._characters = characters

    def of(self, number: int) -> Texts:
        """Other passages of the same text, the same for the same number."""
        return Texts(self._text, (*self._seed, number), self._characters)

    @classmethod
    def measured(cls, server: ServerUnderTest, text: str, seed: int) -> Texts:
        """Prompts for a server whose tokens are counted on one prompt first."""
        sample = " ".join(text.split())[:1000]
        counted = server.ask(sample, 1).prompt_tokens
        return cls(text, (seed,), len(sample) / counted if counted else 4.0)

    def cut(self, tokens: int, novel: bool = True) -> str:
        """A passage of about so many tokens, begun with what no server has seen when it is to be novel.

        It ends with a letter: punctuation would often become one token with what is generated next.
        """
        start = int(self._rng.integers(0, max(1, len(self._text) - int(2 * tokens * self._characters))))
        start = self._text.find(" ", start) + 1
        begin = f"{secrets.choice(_words(self._text))} {secrets.token_hex(2)} " if novel else ""
        length = max(8, round(tokens * self._characters) - 2 * len(begin))
        passage = self._text[start : start + length]
        words = passage.split(" ")[:-1]
        while len(words) > 1 and not words[-1].isalpha():
            words.pop()
        return begin + " ".join(words)


@dataclass
class Round:
    """Some prompts, each once computed anew, and what the features do with them.

    Attributes:
        server: the server under test.
        texts: where prompts come from.
        tokens: tokens of a prompt, fewer than a chunk.
        clients: how many prompts are asked at once.
        against: another server of the same model, whose answers all are compared with.
    """

    server: ServerUnderTest
    texts: Texts
    tokens: int
    clients: int
    against: ServerUnderTest | None = None

    def __post_init__(self) -> None:
        self.prompts = [self.texts.cut(self.tokens) for _ in range(self.clients)]
        # Before anything is remembered of them.
        self._slots = self.server.together(self.prompts, TOGETHER) if self.clients > 1 else []
        self.reference = self.against or self.server
        self.bases = self.reference.fresh(self.prompts, GENERATED)
        self._borders: dict[int, tuple[str, Answer] | None] = {}

    def calibrations(self) -> list[Pair]:
        """What is computed differently without any of the features.

        The same positions read as part of a prompt and generated one by one; or, beside another server, both servers'
        answers to prompts that are computed anew.
        """
        if self.against is not None:
            found = self.server.fresh(self.prompts, GENERATED)
            return [Pair(base.tops, own.tops) for base, own in zip(self.bases, found, strict=True)]
        return [pair for pair in self._read(self.prompts, self.bases, HEAD) if pair.begins_alike]

    def _read(self, prompts: Sequence[str], bases: Sequence[Answer], head: int) -> list[Pair]:
        """Prompts with the first tokens of their answers, beside the answers; not where that gives other tokens."""
        heads = self.reference.fresh(prompts, head)
        longer = self.server.fresh([prompt + a.text for prompt, a in zip(prompts, heads, strict=True)], TAIL)
        return [
            Pair(base.tops[head:], found.tops)
            for base, found in zip(bases, longer, strict=True)
            if not found.prompt_tokens or found.prompt_tokens == base.prompt_tokens + head
        ]

    def reuse(self) -> list[Pair]:
        """A prompt once more: all of it is remembered."""
        prompt = self.prompts[0]
        self.server.ask(prompt, 1)
        again = self.server.ask(prompt, GENERATED)
        return [Pair(self.bases[0].tops, again.tops, again.cached)]

    def parted(self) -> list[Pair]:
        """A prompt whose first half another one left behind, which went on differently."""
        prompt = self.prompts[-1]
        half = prompt[: len(prompt) // 2].rpartition(" ")[0]
        self.server.forget()
        self.server.ask(f"{half} {self.texts.of(0).cut(self.tokens // 2, novel=False)}", 1)
        parted = self.server.ask(prompt, GENERATED)
        return [Pair(self.bases[-1].tops, parted.tops, parted.cached)]

    def slots(self) -> list[Pair]:
        """Several prompts at the same moment."""
        return [Pair(base.tops, slot.tops) for base, slot in zip(self.bases, self._slots, strict=False)]

    def border(self, tokens: int) -> list[Pair]:
        """Positions behind a border of so many tokens, reached by generating and by a prompt that crosses it."""
        found = self._up_to(tokens)
        return self._read([found[0]], [found[1]], tokens - found[1].prompt_tokens + BEHIND) if found else []

    def before(self, tokens: int) -> list[Pair]:
        """Calibrations of about the length of such prompts, as noise grows with it: positions before the border."""
        found = self._up_to(tokens)
        if found is None:
            return []
        prompt = _shorter(found[0], min(SPARE, found[0].count(" ") // 2))
        (base,) = self.reference.fresh([prompt], GENERATED)
        if base.prompt_tokens + GENERATED > tokens:
            return []
        return [pair for pair in self._read([prompt], [base], HEAD) if pair.begins_alike]

    def _up_to(self, tokens: int) -> tuple[str, Answer] | None:
        """A prompt that ends shortly before a border, and an answer that crosses it; None where none was found."""
        if tokens not in self._borders:
            self._borders[tokens] = self._search(tokens)
        return self._borders[tokens]

    def _search(self, tokens: int) -> tuple[str, Answer] | None:
        texts = self.texts.of(tokens)
        prompt = texts.cut(tokens - HEAD)
        for _ in range(SPARE):
            (base,) = self.reference.fresh([prompt], SPARE + BEHIND + TAIL)
            short = tokens - base.prompt_tokens
            if 0 <= short <= SPARE:
                return prompt, base
            words = max(1, abs(short) // 2)
            prompt = f"{prompt} {texts.cut(3 * words, novel=False)}" if short > 0 else _shorter(prompt, words)
        return None

    def shift(self, context: int) -> list[Pair]:
        """An answer that outgrows the context, on both servers: the oldest tokens make room."""
        prompt = self.texts.of(context).cut(context - 2 * SPARE)
        base, own = (server.fresh([prompt], 4 * SPARE)[0] for server in (self.reference, self.server))
        return [Pair(base.tops, own.tops)]


@lru_cache(maxsize=1)
def _words(text: str) -> tuple[str, ...]:
    return tuple({word for word in text.split(" ") if word.isalpha()})


def _shorter(prompt: str, words: int) -> str:
    return " ".join(prompt.split(" ")[: -words or None])


Measure = Callable[[Round], Sequence[Pair]]


@dataclass(frozen=True)
class Feature:
    """One thing that a server does with its cache; `measure` gives pairs of which any may show a fault.

    `calibrate` gives what differs without the feature where prompts are longer than those of a round.
    """

    name: str
    what: str
    measure: Measure
    calibrate: Measure = lambda _: ()


REUSE = Feature("reuse", "a prompt asked again, all of it remembered", Round.reuse)
PARTED = Feature("parted", "a prompt whose beginning another one left behind", Round.parted)
SLOTS = Feature("slots", "several prompts at the same moment", Round.slots)


def shift(context: int) -> Feature:
    """What happens where an answer outgrows the context; to be tested beside another server only."""
    return Feature("shift", f"an answer that outgrows the context ({context} tokens)", lambda r: r.shift(context))


def border(name: str, what: str, tokens: int) -> Feature:
    """What happens where a prompt crosses a number of tokens."""
    return Feature(name, f"{what} ({tokens} tokens)", lambda r: r.border(tokens), lambda r: r.before(tokens))
