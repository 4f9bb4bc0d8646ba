"""Reads the body of a completion however it is framed: as JSON, as a stream of events, or as JSON line by line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from swarm.agents.llm.failures import error_in

_LINES = re.compile(r"\r\n|\r|\n")
"""What ends a line of a stream; `str.splitlines` would split inside texts."""


def read(text: str) -> Mapping[str, Any] | None:
    """The body as one completion; None where it is no object.

    Raises:
        ValueError, RecursionError: it is no JSON, and no stream of it.
    """
    whole = text.removeprefix("\ufeff")
    try:
        body = json.loads(whole)
    except ValueError:
        events = list(_events(whole))
        if not events:
            raise
        return _joined(events)
    if isinstance(body, list) and len(body) == 1:
        body = body[0]
    return body if isinstance(body, Mapping) else None


def _events(text: str) -> Iterator[Mapping[str, Any]]:
    """The objects of a stream; its comments, names and end mark are left out."""
    for line in _LINES.split(text):
        try:
            event = json.loads(line.removeprefix("data:"))
        except ValueError:
            continue
        if isinstance(event, Mapping):
            yield event


def _joined(events: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The completion that a stream's events tell piece by piece; an event that is an error is all there is."""
    choice: dict[str, Any] = {}
    message: dict[str, Any] = {}
    calls: dict[object, dict[str, Any]] = {}
    usage: object = None
    for event in events:
        if error_in(event) is not None:
            return event
        usage = event.get("usage") or usage
        listed = event.get("choices")
        first = listed[0] if isinstance(listed, list) and listed else None
        if not isinstance(first, Mapping):
            continue
        piece = first.get("delta") or first.get("message") or {}
        _add(choice, {name: value for name, value in first.items() if name not in ("delta", "message")})
        _add(message, {name: value for name, value in piece.items() if name != "tool_calls"})
        for call in piece.get("tool_calls") or ():
            function = call.get("function") or {}
            known = calls.setdefault(call.get("index", len(calls)), {"function": {}})
            known["id"] = known.get("id") or call.get("id")
            _add(known["function"], function)
    if calls:
        message["tool_calls"] = list(calls.values())
    return {"choices": [{**choice, "message": message}] if choice or message else [], "usage": usage}


def _add(whole: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Put a piece of an object to what came before: texts and lists are continued, the rest is replaced."""
    for name, value in piece.items():
        known = whole.get(name)
        continued = name != "role" and isinstance(value, str | list) and type(known) is type(value)
        if value is not None:
            whole[name] = known + value if continued else value
