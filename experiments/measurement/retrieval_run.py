"""The 16-bit run of a retrieval trial: texts that hide facts, read once, and how well it answers questions about them.

A greedy answer equals the right one exactly when every token of the right one is the likeliest after those before it,
and what follows does not go on with its last word. So one pass over the right answer gives both readings: its
probability, and whether the free-running answer matches it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.measurement.divergence import finite
from swarm.experiments.measurement.haystack import (
    FACTS_SHARE,
    INTRODUCTION,
    KINDS,
    WORDING,
    HiddenFact,
    Puzzle,
    puzzles,
)
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.reference_run import (
    Prefix,
    ReferenceRun,
    in_16_bit,
    to_file,
)
from swarm.experiments.measurement.states import save_states, states_of
from swarm.kernels import attention
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import other_caches

if TYPE_CHECKING:
    from swarm.experiments.artifacts import BlockFile, CaptureWriter
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.spec import TrialSpec
    from swarm.kernels.attention import Recorded

TEXTS = 4
CHUNK = 128
MARK = "\N{SYMBOL FOR RECORD SEPARATOR}"


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
        texts = _Texts(spec, subject)
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


class _Texts:
    """The texts and questions as token ids of one model's tokenizer."""

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
