"""Reads a chat completion whatever the server left out or wrote in a form of its own.

Every quirk is of a kind: text that comes in another shape or field, tool calls in other shapes, counts that cannot be.
Each kind has one reader here; what follows sees one form.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from swarm.memory.text import clean

MAX_ANSWER_CHARS = 200_000
"""Characters of an answer that are looked at."""

MAX_TOOL_CALLS = 4
"""Tool calls of one answer that are looked at; the rest is dropped."""

MAX_ARGUMENT_CHARS = 8_000
"""Characters of a tool call's arguments; longer ones count as none."""

MAX_TOKENS = 1_000_000_000
"""What a server may say that one call has cost."""

REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Where servers put thoughts; some put the whole answer there."""

_WORDS = ("text", "content", "value", "refusal")
"""Where a part of an answer has its words."""

_NAMES = itertools.count(1)


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to use, with its arguments as JSON text. `identity` is unique in its answer."""

    identity: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatReply:
    """An answer. Token counts are None when the server does not tell.

    `thoughts` are what came in a field of their own; they are of use where there is no other text.
    """

    text: str
    tools: tuple[ToolCall, ...]
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    thoughts: str = ""
    tokens_cached: int = 0
    """Tokens of the prompt that the server had read before, where it tells."""
    cut: bool = False
    """Whether it ended because no more tokens were allowed."""


def read(body: Mapping[str, Any], seconds: float, fit: Callable[[str], str] = str) -> ChatReply | None:
    """The answer in a completion's body; None when there is none.

    Args:
        body: the body as JSON.
        seconds: how long it took.
        fit: what every text goes through first; it hides the key.
    """
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, Mapping):
        return None
    found = choice.get("message")
    message: Mapping[str, Any] = found if isinstance(found, Mapping) else {}

    def shown(value: object) -> str:
        return clean(fit(_text(value)), MAX_ANSWER_CHARS)

    # Servers of plain completions put the words beside the message; answers as objects and refusals have own fields.
    places = (message.get("content"), choice.get("text"), message.get("parsed"), message.get("refusal"))
    text = next(filter(None, map(shown, places)), "")
    thoughts = next(filter(None, (shown(message.get(name)) for name in REASONING_FIELDS)), "")
    tools = tuple(itertools.islice(_tools(message, fit), MAX_TOOL_CALLS))
    usage = body.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    known = counts.get("prompt_tokens_details")
    details = known if isinstance(known, Mapping) else {}
    silent = not text and not tools
    return ChatReply(
        text=text,
        tools=_distinct(tools),
        # No prompt is of no tokens, and no words are: a zero is a server that does not count.
        tokens_in=_count(counts.get("prompt_tokens"), 1),
        tokens_out=_count(counts.get("completion_tokens"), 0 if silent else 1),
        seconds=seconds,
        thoughts=thoughts,
        tokens_cached=_count(details.get("cached_tokens"), 0) or 0,
        cut=choice.get("finish_reason") == "length",
    )


def model_names(body: object) -> list[str]:
    """The names in a server's list of models: under `data` or `models` or by itself, of objects or of plain names."""
    listed = (body.get("data") or body.get("models")) if isinstance(body, Mapping) else body
    named = (
        next((one[field] for field in ("id", "name", "model") if one.get(field)), "")
        if isinstance(one, Mapping)
        else one
        for one in (listed if isinstance(listed, list) else [])
    )
    return [name for name in named if isinstance(name, str) and name]


def _text(value: object) -> str:
    """Words in any shape: a string, a part `{"type": "text", "text": ...}`, or a list of such; thoughts left out.

    An object that is no such part is the answer itself, and is given as JSON.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        if value.get("type") in ("thinking", "reasoning"):
            return ""
        if value and "type" not in value and value.keys().isdisjoint(_WORDS):
            return json.dumps(value, ensure_ascii=False)
        return next((_text(value[name]) for name in _WORDS if value.get(name)), "")
    if isinstance(value, list):
        return "".join(_text(part) for part in value if not isinstance(part, list))
    return ""


def _tools(message: Mapping[str, Any], fit: Callable[[str], str]) -> Iterator[ToolCall]:
    """The tool calls, each with one object of arguments."""
    calls = message.get("tool_calls")
    listed = calls if isinstance(calls, list) else [calls]
    # Before tools there was one function.
    old = message.get("function_call")
    for call in [*listed, {"function": old}] if isinstance(old, Mapping) else listed:
        if not isinstance(call, Mapping):
            continue
        function = call.get("function", call)
        if not isinstance(function, Mapping) or not function.get("name"):
            continue
        name = clean(fit(str(function["name"])), MAX_ANSWER_CHARS)[:64]
        given = function.get("arguments", function.get("parameters"))
        for arguments in _arguments(given):
            shown = clean(fit(arguments), MAX_ANSWER_CHARS)
            identity = clean(fit(str(call.get("id") or "")), MAX_ANSWER_CHARS)[:64]
            yield ToolCall(identity, name, shown if len(shown) <= MAX_ARGUMENT_CHARS else "{}")


def _arguments(given: object) -> Iterator[str]:
    """Each object of arguments as JSON text: given as text, as an object, as text of text, or as several in a row."""
    if not isinstance(given, str):
        yield json.dumps(given) if isinstance(given, Mapping) else "{}"
        return
    decoder, place, found = json.JSONDecoder(), 0, []
    try:
        while place < len(given):
            value, place = decoder.raw_decode(given, place)
            found.append(value)
            while place < len(given) and given[place] in " \t\r\n,;":
                place += 1
    except (ValueError, RecursionError):
        pass  # what is left over is no JSON; what came before it counts
    if len(found) == 1 and isinstance(found[0], str):
        yield from _arguments(found[0])
    elif objects := [value for value in found if isinstance(value, dict)]:
        yield from (json.dumps(value, ensure_ascii=False) for value in objects)
    else:
        yield given or "{}"


def _distinct(calls: tuple[ToolCall, ...]) -> tuple[ToolCall, ...]:
    """The calls with an identity each, where the server gave none or one to several."""
    known: set[str] = set()
    found = []
    for call in calls:
        # Nine letters and digits: the strictest server (Mistral's) takes no other.
        identity = call.identity if call.identity and call.identity not in known else f"call{next(_NAMES) % 100_000:05}"
        known.add(identity)
        found.append(ToolCall(identity, call.name, call.arguments))
    return tuple(found)


def _count(value: object, least: int) -> int | None:
    if not isinstance(value, int) or value < least:
        return None
    return min(value, MAX_TOKENS)
