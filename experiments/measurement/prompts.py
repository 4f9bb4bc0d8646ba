"""The prompts of generation trials, and what their answers must be."""

from __future__ import annotations

import json
import re
import tomllib
import warnings
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model

from swarm.experiments.measurement.haystack import WORDS
from swarm.kernels.spec import FrozenModel

WORDING = 1
"""Raised when prompts change: captures of answers to other ones are made again."""
PromptKind = Literal["instruction", "code", "json", "copy"]
FieldType = Literal["str", "int", "float", "bool", "list[str]"]
KINDS: tuple[PromptKind, ...] = ("instruction", "code", "json", "copy")
TYPES: dict[FieldType, Any] = {"str": str, "int": int, "float": float, "bool": bool, "list[str]": list[str]}
FENCED = re.compile(r"```[a-zA-Z]*\n(.*?)(?:```|\Z)", re.DOTALL)


class Assignment(FrozenModel):
    """A prompt with places for two words (`{a}`, `{b}`) or a part of the corpus (`{text}`).

    `fields` are those that a JSON answer must have, by type.
    """

    kind: PromptKind
    text: str
    fields: dict[str, FieldType] = Field(default_factory=dict)

    def filled(self, replicate: int, text: str) -> str:
        """The prompt of a replicate."""
        a, b = np.random.default_rng([replicate, 0x9A]).choice(WORDS, 2, replace=False)
        return self.text.format(a=a, b=b, text=text)


@cache
def prompts() -> tuple[Assignment, ...]:
    """The bundled prompts."""
    data = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    return TypeAdapter(tuple[Assignment, ...]).validate_python(data["prompt"])


def of_replicate(replicate: int) -> tuple[Assignment, ...]:
    """One prompt of each kind."""
    by_kind = [[prompt for prompt in prompts() if prompt.kind == kind] for kind in KINDS]
    return tuple(known[replicate % len(known)] for known in by_kind)


def is_valid_json(answer: str, prompt: Assignment) -> bool:
    """Whether the first JSON object of an answer has the fields of the prompt, of their types, and no others."""
    start = answer.find("{")
    if start < 0:
        return False
    try:
        found, _ = json.JSONDecoder().raw_decode(answer, start)
        _answer_model(tuple(prompt.fields.items())).model_validate(found, strict=True)
    except (ValueError, RecursionError, ValidationError):
        return False
    return True


@cache
def _answer_model(fields: tuple[tuple[str, FieldType], ...]) -> type[BaseModel]:
    types: dict[str, Any] = {name: (TYPES[kind], ...) for name, kind in fields}
    return create_model("JsonAnswer", __config__=ConfigDict(extra="forbid"), **types)


def compiles(answer: str, *, ended: bool) -> bool:
    """Whether the code in an answer is Python by its syntax; it is compiled and never run.

    Code is what stands in the first fenced block, or the whole answer. Of an answer that was cut off, what begins with
    the last line without indentation does not count.
    """
    block = FENCED.search(answer)
    code = block.group(1) if block else answer
    if not ended and not (block and block.group(0).endswith("```")):
        lines = code.splitlines()
        begins = [number for number, line in enumerate(lines) if line[:1].strip()]
        code = "\n".join(lines[: begins[-1]]) if begins else ""
    if not code.strip():
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(code, "<answer>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
        return False
    return True
