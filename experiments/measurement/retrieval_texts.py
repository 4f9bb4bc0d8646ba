"""The texts of a retrieval trial as token ids: facts hidden in filler, and questions with their right answers."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.haystack import FACTS_SHARE, INTRODUCTION, HiddenFact, Puzzle, puzzles
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec

TEXTS = 4
"""Texts of one trial."""
MARK = "\N{SYMBOL FOR RECORD SEPARATOR}"
"""Stands for a text and its questions while a chat template is applied."""


class RetrievalTexts:
    """The texts and questions of a trial as token ids of its model's tokenizer.

    `tokens`, `questions`, `lengths`, `depths`, `kinds` and `continues` are the arrays that `RetrievalRun` describes.

    Args:
        spec: the trial.
        subject: the model.

    Raises:
        SpecError: the context has no room for a fact and a question.
    """

    def __init__(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        self._tokenizer: Any = subject.loaded.tokenizer
        self._spec = spec
        self._subject = subject
        head, self._foot = self._frame()
        self._head = self._ids(head)
        numbers = range(spec.replicate * TEXTS, (spec.replicate + 1) * TEXTS)
        hidden = [list(puzzles(number)) for number in numbers]
        self._encode_questions(hidden)
        self._write_texts(hidden)
        size = subject.info.vocab_size
        self.continues = np.array([_continues(word) for word in self._words(range(size))], np.bool_)

    def _frame(self) -> tuple[str, str]:
        """What stands before a text and its questions, and behind."""
        tokenizer = self._tokenizer
        if tokenizer.has_chat_template:
            messages = [{"role": "user", "content": MARK}]
            text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            head, _, foot = text.partition(MARK)
            return head + INTRODUCTION, foot
        bos = tokenizer.bos_token if self._subject.info.bos else None
        return (bos or "") + INTRODUCTION, "\nAnswer: "

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False))

    def _words(self, tokens: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary writes them; numbers behind its end have none."""
        return [word or "" for word in self._tokenizer.convert_ids_to_tokens(list(tokens))]

    def _suffix(self, question: HiddenFact) -> tuple[list[int], list[int]]:
        """A question with the beginning of its answer, and the rest of the answer."""
        asked = f"\n\nQuestion: {question.text}{self._foot}{question.lead}"
        short, whole = self._ids(asked), self._ids(asked + question.answer)
        shared = next((i for i, pair in enumerate(zip(short, whole, strict=False)) if pair[0] != pair[1]), len(short))
        return whole[:shared], whole[shared:]

    def _encode_questions(self, hidden: list[list[Puzzle]]) -> None:
        """Choose the kinds that fit, and encode their facts and questions.

        Raises:
            SpecError: the context has no room for any.
        """
        self._facts: list[list[tuple[float, list[int]]]] = [[] for _ in hidden]
        self._asked: list[list[tuple[list[int], list[int]]]] = [[] for _ in hidden]
        kinds: list[int] = []
        depths: list[list[float]] = [[] for _ in hidden]
        needed = 0
        for place, puzzle in enumerate(zip(*hidden, strict=True)):
            facts = [[(fact.depth, self._ids(fact.text)) for fact in one.facts] for one in puzzle]
            asked = [[self._suffix(question) for question in one.questions] for one in puzzle]
            trial = [old + new for old, new in zip(self._facts, facts, strict=True)]
            lasts = [old + new for old, new in zip(self._asked, asked, strict=True)]
            taken = max(sum(len(tokens) for _, tokens in row) for row in trial)
            outside = len(self._head) + _last_tokens(lasts)
            needed = needed or ceil(taken / FACTS_SHARE) + outside
            if taken > FACTS_SHARE * (self._spec.context - outside):
                continue
            self._facts, self._asked = trial, lasts
            kinds += [place] * len(puzzle[0].questions)
            for row, one in zip(depths, puzzle, strict=True):
                row += [question.depth for question in one.questions]
        if not kinds:
            raise SpecError(
                f"context={self._spec.context} has no room for a fact and a question about it.",
                f"With this model's tokenizer, retrieval needs {needed} tokens or more.",
            )
        self.kinds, self.depths = np.array(kinds), np.array(depths)

    def _write_texts(self, hidden: list[list[Puzzle]]) -> None:
        """Put facts between sentences of the filler, so that text, question and answer take the whole context."""
        context = self._spec.context
        longest = max(len(answer) for row in self._asked for _, answer in row)
        last = _last_tokens(self._asked)
        filler = self._subject.windows(self._spec, context + 1, len(hidden))[:, 1:]
        size = context - last
        texts = []
        questions = []
        for row, facts, asked in zip(filler, self._facts, self._asked, strict=True):
            used = size - len(self._head) - sum(len(tokens) for _, tokens in facts)
            texts.append(self._head + self._hide(row[:used], facts))
            line = []
            for prompt, answer in asked:
                fill = row[used : used + last - longest - len(prompt)]
                whole = [*fill, *prompt, *answer]
                line.append(whole + whole[-1:] * (last - len(whole)))
            questions.append(line)
        self.tokens, self.questions = np.array(texts), np.array(questions)
        self.lengths = np.array([[len(answer) for _, answer in row] for row in self._asked])

    def _hide(self, filler: NDArray[np.integer], facts: Sequence[tuple[float, list[int]]]) -> list[int]:
        """Facts in the order of their depths, each behind the sentence that ends nearest."""
        ends = [i + 1 for i, word in enumerate(self._words(filler.tolist())) if word.endswith((".", "Ċ", "\n"))]
        places = np.array(sorted({0, *ends, len(filler)}))
        text: list[int] = []
        done = 0
        for depth, tokens in sorted(facts, key=lambda fact: fact[0]):
            place = max(done, int(places[np.abs(places - depth * len(filler)).argmin()]))
            text += [*filler[done:place], *tokens]
            done = place
        return [*text, *filler[done:]]


def _last_tokens(asked: Sequence[Sequence[tuple[list[int], list[int]]]]) -> int:
    """Tokens that the longest question and the longest answer take together."""
    pairs = [pair for row in asked for pair in row]
    return max(len(prompt) for prompt, _ in pairs) + max(len(answer) for _, answer in pairs)


def _continues(word: str) -> bool:
    """Whether a token, as the vocabulary writes it, goes on with the word before it."""
    first = word.removeprefix("##")[:1]
    return first.isascii() and first.isalnum()
