"""What an endpoint understands: learned from its refusals, one feature less at a time."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

STRUCTURED = ("json_schema", "json_object", "none")


@dataclass
class Dialect:
    """The features of chat completions that a server takes. Starts with all of them."""

    structured: str = "json_schema"
    tools: bool = True
    temperature: bool = True
    limit: str = "max_tokens"
    _tried: int = 0

    def arguments(
        self,
        schema: type[BaseModel] | None,
        tools: list[dict[str, Any]],
        max_output: int,
        temperature: float | None,
    ) -> dict[str, Any]:
        """Keyword arguments of a call in this dialect."""
        arguments: dict[str, Any] = {self.limit: max_output}
        if temperature is not None and self.temperature:
            arguments["temperature"] = temperature
        if tools and self.tools:
            arguments["tools"] = tools
        if schema is not None and self.structured == "json_schema":
            name = schema.__name__.lower()
            body = {"name": name, "schema": strict_schema(schema), "strict": True}
            arguments["response_format"] = {"type": "json_schema", "json_schema": body}
        elif schema is not None and self.structured == "json_object":
            arguments["response_format"] = {"type": "json_object"}
        return arguments

    def degrade(self, complaint: str) -> bool:
        """Give up the feature that a refused request complains about; False when there is none left to give up."""
        text = complaint.lower()
        if ("max_tokens" in text or "max_completion_tokens" in text) and not self._tried:
            self._tried = 1
            self.limit = "max_completion_tokens" if self.limit == "max_tokens" else "max_tokens"
        elif "temperature" in text and self.temperature:
            self.temperature = False
        elif "tool" in text and self.tools:
            self.tools = False
        elif self.structured != "none":
            self.structured = STRUCTURED[STRUCTURED.index(self.structured) + 1]
        elif self.tools:
            self.tools = False
        elif self.temperature:
            self.temperature = False
        else:
            return False
        return True


def strict_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of an answer as strict servers want it: every property required, nothing else allowed."""
    schema = copy.deepcopy(model.model_json_schema())
    _tighten(schema)
    return schema


def _tighten(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _tighten(item)
    if not isinstance(node, dict):
        return
    if node.get("type") == "object" and "properties" in node:
        node["required"] = list(node["properties"])
        node["additionalProperties"] = False
    for name in ("default", "title", "maxLength", "minLength", "maxItems", "minItems"):
        if not isinstance(node.get(name), dict):
            node.pop(name, None)
    for value in node.values():
        _tighten(value)
