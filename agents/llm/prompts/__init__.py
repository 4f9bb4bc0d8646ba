"""Prompts as files with versions: `<role>.md` in this folder. Every recorded call names the text it was made with."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from swarm.kernels.errors import UnknownNameError

FOLDER = Path(__file__).parent
_HEAD = re.compile(r"\A---\nversion: (\d+)\n---\n+", re.MULTILINE)


@dataclass(frozen=True)
class Prompt:
    """The system prompt of a role."""

    role: str
    version: int
    text: str

    @property
    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


@cache
def prompt(role: str) -> Prompt:
    """The prompt of a role.

    Raises:
        UnknownNameError: no such file.
        ValueError: the file does not begin with its version.
    """
    path = FOLDER / f"{role}.md"
    if not path.is_file():
        raise UnknownNameError("prompt", role, ", ".join(sorted(p.stem for p in FOLDER.glob("*.md"))))
    text = path.read_text("utf-8")
    head = _HEAD.match(text)
    if head is None:
        raise ValueError(f"{path.name} must begin with its version")
    return Prompt(role, int(head.group(1)), text[head.end() :].strip())
