"""Refuses prose that says more than the store: bare numbers, unresolved references, claims that the data contradict.

The same rules hold for people, for the built-in summary and for LLMs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from swarm.agents.analysis.results import ConfigResult, compare, is_consistent
from swarm.agents.writing.references import MAX_WORDS, PATTERN, Resolver, UnresolvedError
from swarm.kernels import plugins
from swarm.kernels.quantizers import base as quantizers

_SENTENCE = re.compile(r"(?<=[.!?;])\s+|\s*\|\s*")
_DIGIT = re.compile(r"\d")
_LIST_NUMBER = re.compile(r"^\s*\d+[.)]\s+")
_WIDTH = re.compile(r"\b(\d+-bit|int\d+|fp\d+|top-?1)\b", re.IGNORECASE)
_QUANTITY = re.compile(
    r"%|\b(percent\w*|twice|thrice|doubl\w*|tripl\w*|quadrupl\w*|half|halv\w*|tenfold|\w+-fold|\w+fold|dozen\w*|hundred\w*"
    r"|thousand\w*|(?:two|three|four|five|six|seven|eight|nine|ten) times|orders? of magnitude)\b",
    re.IGNORECASE,
)
_LESS = r"lower|less|smaller|fewer|below|beats?|outperforms?|better than|improves? on|cheaper"
_MORE = r"higher|more|larger|greater|above|exceeds?|worse than|loses? to|dearer"
_COMPARATIVE = re.compile(
    rf"\b(?:(?P<less>{_LESS})|(?P<more>{_MORE})|better|worse|best|worst|lowest|highest|increas\w*|decreas\w*|reduc\w*|grows?)\b",
    re.IGNORECASE,
)
_MEASURED = re.compile(r"\b(kld|kl|bits?|errors?|perplexity|ppl|top-?1|loss(es)?|accuracy|quality)\b", re.IGNORECASE)
_NEGATION = re.compile(r"\b(not|never|no|neither|nor|hardly|without|cannot)\b|n't\b", re.IGNORECASE)


def sentences(text: str) -> list[str]:
    """The sentences, list items, table cells and headings of a markdown text."""
    parts = (part for line in text.splitlines() for part in _SENTENCE.split(_LIST_NUMBER.sub("", line)))
    return [part.strip() for part in parts if part.strip(" |-#*_")]


def problems(text: str, resolver: Resolver) -> list[str]:
    """What is wrong with the sentences of a text; empty when everything in it is carried by evidence."""
    names = _names(resolver)
    reasons = (
        _unresolved(sentence, resolver) or _bare_number(sentence, names) or _wrong_direction(sentence, resolver)
        for sentence in sentences(text)
    )
    return [reason for reason in reasons if reason]


def too_long(shown: str) -> list[str]:
    """What is wrong with the length of the sentences of a text whose references are filled in."""
    most = max((len(sentence.split()) for sentence in sentences(shown)), default=0)
    return [f"a sentence of it has {most} words; people read {MAX_WORDS}."] if most > MAX_WORDS else []


def is_guess(text: str, resolver: Resolver) -> bool:
    """Whether a text explains without asserting: no number, and no comparison of what the swarm measures."""
    names = _names(resolver)
    return not any(
        _unresolved(sentence, resolver)
        or _bare_number(sentence, names)
        or (_COMPARATIVE.search(sentence) and _MEASURED.search(sentence))
        for sentence in sentences(text)
    )


def _names(resolver: Resolver) -> list[str]:
    """Proper names that hold digits: models, methods and metrics."""
    records = resolver.history.records
    models = {r.spec.model for r in records}
    metrics = {name for r in resolver.history.completed for name in r.metrics}
    return sorted({*models, *metrics, *plugins.names(quantizers.PACKAGE)}, key=len, reverse=True)


def _unresolved(sentence: str, resolver: Resolver) -> str | None:
    for match in PATTERN.finditer(sentence):
        try:
            resolver.text(match.group(0)[1:-1])
        except UnresolvedError as error:
            return error.problem
    left = PATTERN.sub("", sentence)
    return "it has a brace that is no reference." if "{" in left or "}" in left else None


def _bare_number(sentence: str, names: Iterable[str]) -> str | None:
    left = _WIDTH.sub("", PATTERN.sub("", sentence))
    for name in names:
        left = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w])", "", left)
    if _DIGIT.search(left):
        return "it has a number that is no reference."
    quantity = _QUANTITY.search(left)
    return f"it states a quantity ({quantity.group(0)!r}) without a reference." if quantity else None


def _wrong_direction(sentence: str, resolver: Resolver) -> str | None:
    """A comparison must be between two references to one metric, and the data must agree with it."""
    references = list(PATTERN.finditer(sentence))
    prose = PATTERN.sub(" ", sentence)
    comparative = _COMPARATIVE.search(prose)
    if comparative is None:
        return None
    numbers = [m for m in references if m.group(1) == "trial" and _metric(m) not in ("", "label", "model", "number")]
    if len(numbers) != 2 or _metric(numbers[0]) != _metric(numbers[1]):
        return "it compares, but not exactly two trials by the same metric."
    between = sentence[numbers[0].end() : numbers[1].start()]
    words = list(_COMPARATIVE.finditer(PATTERN.sub(" ", between)))
    if len(words) != 1 or not (words[0].group("less") or words[0].group("more")) or _NEGATION.search(prose):
        return "its comparison cannot be checked: put one of 'lower than', 'higher than' between two references."
    return _contradiction(numbers[0], numbers[1], bool(words[0].group("less")), resolver)


def _contradiction(left: re.Match[str], right: re.Match[str], less: bool, resolver: Resolver) -> str | None:
    metric = _metric(left)
    a, b = (resolver.trial(m.group(2).partition(":")[0]) for m in (left, right))
    lower, higher = (a, b) if less else (b, a)
    if lower.metrics[metric].value >= higher.metrics[metric].value:
        return "the data contradict its direction."
    if a.spec.protocol != b.spec.protocol:
        return "its trials measured different things."
    if not (is_consistent(lower) and is_consistent(higher)):
        return "one of its trials contradicts itself."
    difference = compare(ConfigResult(metric, (lower,)), ConfigResult(metric, (higher,)))
    if difference is not None and difference.interval()[1] >= 0:
        return "the difference is within the noise."
    return None


def _metric(match: re.Match[str]) -> str:
    return match.group(2).partition(":")[2]
