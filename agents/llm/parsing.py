"""Reads structured answers from what models really write: fences, prose around, cut ends."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from swarm.agents.llm.retry import AnswerError
from swarm.agents.llm.thoughts import without_thoughts
from swarm.kernels.errors import SwarmError

Answer = TypeVar("Answer", bound=BaseModel)

_FENCE = re.compile(r"```(?:json|JSON)?\s*\n?(.*?)(?:```|\Z)", re.DOTALL)
_OPENING = re.compile(r"[{[]")
_TOKEN = re.compile(r'[][{}]|"(?:[^"\\]|\\.)*\\?(?P<end>"?)', re.DOTALL)
"""Brackets, and strings with what is in them."""

_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
MAX_CANDIDATES = 12
MAX_CUTS = 60


def read(text: str, model: type[Answer]) -> Answer:
    """The first JSON object or list in a text that has the shape asked for.

    A list where an object with a single list field was asked for is taken as that field. What a model marks as its
    thoughts is no answer.

    Raises:
        AnswerError: there is none, with the first complaint.
    """
    complaint = "it holds no JSON object"
    whole = _decoded(text)  # marks inside an answer's own words close no thought
    for value in _unwrapped(_values(text if isinstance(whole, dict | list) else without_thoughts(text))):
        fields = list(model.model_fields)
        try:
            return model.model_validate({fields[0]: value} if isinstance(value, list) and len(fields) == 1 else value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            complaint = f"{'.'.join(map(str, first['loc'])) or 'the object'}: {first['msg']}"
        except SwarmError as error:
            complaint = error.problem
    raise AnswerError(f"the answer cannot be used: {complaint}.", "Answer with JSON of the given schema only.")


def _values(text: str) -> Iterator[Any]:
    """Everything in the text that can be read as a JSON object or list, the likeliest first."""
    candidates = (text, *(match.group(1) for match in _FENCE.finditer(text)), *_braced(text))
    for candidate in candidates[:MAX_CANDIDATES]:
        for repaired in (candidate, _TRAILING_COMMA.sub(r"\1", candidate)):
            value = _decoded(repaired)
            if isinstance(value, dict | list):
                yield value
                break
        else:
            value = _closed(candidate)
            if isinstance(value, dict | list):
                yield value


def _unwrapped(values: Iterator[Any]) -> Iterator[Any]:
    """Each value, and the answer in it: they come as `{"answer": ...}` and as arguments of a call, too."""
    for value in values:
        yield value
        if isinstance(value, dict):
            inner = next(iter(value.values())) if len(value) == 1 else value.get("arguments")
            if isinstance(inner, dict | list):
                yield inner


def _decoded(text: str) -> Any:
    """The value of a JSON text, or of one inside it; texts may go over several lines."""
    try:
        value = json.loads(text.strip(), strict=False)
        return json.loads(value, strict=False) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return None


def _braced(text: str) -> Iterator[str]:
    """From each opening bracket at the outermost level to where it closes, or to the end."""
    place = 0
    while opening := _OPENING.search(text, place):
        depth, start, place = 0, opening.start(), len(text)
        for token in _TOKEN.finditer(text, start):
            depth += (token.group() in "{[") - (token.group() in "}]")
            if depth == 0:
                place = token.end()
                break
        yield text[start:place]


def _closed(text: str) -> Any:
    """An answer that was cut off: dropped back to the last complete item, with its brackets closed."""
    start = min((i for i in (text.find("{"), text.find("[")) if i >= 0), default=-1)
    if start < 0:
        return None
    body = text[start:]
    cuts = [len(body), *(i + 1 for i in range(len(body) - 1, 0, -1) if body[i] in "}]")]
    for cut in cuts[:MAX_CUTS]:
        closing = _missing(body[:cut])
        if closing is not None:
            value = _decoded(_TRAILING_COMMA.sub(r"\1", body[:cut].rstrip().rstrip(",") + closing))
            if value is not None:
                return value
    return None


def _missing(text: str) -> str | None:
    """The brackets that would close a text; None when they do not match or it ends inside a string."""
    stack: list[str] = []
    for token in _TOKEN.finditer(text):
        mark = token.group()
        if mark in "{[":
            stack.append("}" if mark == "{" else "]")
        elif mark in "}]":
            if not stack or stack.pop() != mark:
                return None
        elif not token.group("end"):
            return None
    return "".join(reversed(stack))
