"""Which features of chat completions a server takes, found out by what it refuses, and the schemas that it is sent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel

Schema = dict[str, Any]

_BOUNDS = ("maxLength", "minLength", "maxItems", "minItems", "minimum", "maximum", "pattern")
"""What bounds texts, lists and numbers; some servers refuse schemas with it."""

_ROLES = re.compile(
    r"\bsystem\b.{0,20}\brole|\brole.{0,20}\bsystem\b|roles must alternate|user and assistant roles", re.I
)


def grammar(schema: Schema) -> str:
    """A schema as a grammar for llguidance, without white space between the parts of an answer."""
    compact = {**schema, "x-guidance": {"whitespace_flexible": False}}
    return f"%llguidance {{}}\nstart: %json {json.dumps(compact)}"


def is_about_roles(complaint: str) -> bool:
    """Whether a server complains about the roles of messages: templates of some models know no system."""
    return _ROLES.search(complaint) is not None


def _json_schema(schema: Schema) -> dict[str, Any]:
    wanted = {"name": "answer", "schema": schema, "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


# How a schema may be sent, as arguments of a call: the form that holds an answer most tightly first.
STRUCTURED: Mapping[str, Callable[[Schema], dict[str, Any]]] = {
    "grammar": lambda schema: {"extra_body": {"grammar": grammar(schema)}},  # our own servers
    "json_schema": _json_schema,  # OpenAI, vLLM, LM Studio, Ollama, llama.cpp
    "unbounded": lambda schema: _json_schema(_unbounded(schema)),
    # Older llama.cpp, Together, Fireworks.
    "json_object": lambda schema: {"response_format": {"type": "json_object", "schema": schema}},
    "object": lambda _: {"response_format": {"type": "json_object"}},
    "none": lambda _: {},
}


@dataclass(frozen=True)
class Dialect:
    """The features of chat completions that a server takes. Starts with all that servers have in common."""

    structured: str = "json_schema"
    tools: bool = True
    temperature: bool = True
    limit: str = "max_tokens"
    stream: bool = False
    system: bool = True

    def messages(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Messages in this dialect: what a system message says begins the next one where there is no such role."""
        first, *rest = messages
        if self.system or first["role"] != "system" or not rest:
            return list(messages)
        return [{**rest[0], "content": f"{first['content']}\n\n{rest[0]['content']}"}, *rest[1:]]

    def arguments(
        self, schema: Schema | None, tools: list[dict[str, Any]], max_output: int, temperature: float | None
    ) -> dict[str, Any]:
        """Keyword arguments of a call in this dialect."""
        arguments: dict[str, Any] = {self.limit: max_output}
        if temperature is not None and self.temperature:
            arguments["temperature"] = temperature
        if tools and self.tools:
            arguments["tools"] = tools
        arguments |= STRUCTURED[self.structured](schema) if schema is not None else {}
        if self.stream:  # in the body alone: it is read as a whole all the same
            arguments["extra_body"] = {**arguments.get("extra_body", {}), "stream": True}
        return arguments

    def simpler(self, complaint: str) -> Dialect | None:
        """The dialect without the feature that a refused request complains about; None: there is none to give up."""
        text = complaint.lower()
        if is_about_roles(text):
            return replace(self, system=False) if self.system else None
        if re.search(r"\bstream", text) and not self.stream:
            return replace(self, stream=True)
        if ("max_tokens" in text or "max_completion_tokens" in text) and self.limit == "max_tokens":
            return replace(self, limit="max_completion_tokens")
        if "temperature" in text and self.temperature:
            return replace(self, temperature=False)
        if "tool" in text and self.tools:
            return replace(self, tools=False)
        if self.structured != "none":
            forms = list(STRUCTURED)
            return replace(self, structured=forms[forms.index(self.structured) + 1])
        if self.tools:
            return replace(self, tools=False)
        return replace(self, temperature=False) if self.temperature else None


def strict_schema(model: type[BaseModel]) -> Schema:
    """The JSON schema of an answer as strict servers want it: every property required, nothing else allowed."""
    schema: Schema = _tightened(model.model_json_schema())
    return schema


def _tightened(node: Any) -> Any:
    if isinstance(node, list):
        return [_tightened(item) for item in node]
    if not isinstance(node, dict):
        return node
    # The name of a property is no keyword of a schema.
    kept = {
        name: _tightened(value)
        for name, value in node.items()
        if name not in ("default", "title", "description") or isinstance(value, dict)
    }
    if kept.get("type") == "object" and "properties" in kept:
        kept |= {"required": list(kept["properties"]), "additionalProperties": False}
    return kept


def _unbounded(node: Any) -> Any:
    """A schema without bounds."""
    if isinstance(node, list):
        return [_unbounded(item) for item in node]
    if not isinstance(node, dict):
        return node
    # The name of a property is no keyword of a schema.
    kept = {name: value for name, value in node.items() if name not in _BOUNDS or isinstance(value, dict)}
    return {name: _unbounded(value) for name, value in kept.items()}
