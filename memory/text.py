"""Makes text and documents fit to be stored and shown: bounded, and free of control characters.

Nothing that agents, workers or people hand in is stored without going through here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from swarm.memory.errors import StoreError

NAME = 200
"""Characters of a name, at most."""
NOTE = 4_000
"""Characters of a note."""
LONG = 200_000
"""Characters of one text in a document."""
DOCUMENT = 1_000_000
"""Characters of a whole document."""

# Control characters but newline and tab, bidirectional overrides (they make text read as what it is not),
# lone surrogates (no database takes them).
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")


def clean(text: str, limit: int = NOTE) -> str:
    """The text without control characters, at most `limit` characters long; a cut is marked."""
    head = text[: 2 * limit + 100].replace("\r\n", "\n").replace("\r", "\n")
    kept = _FORBIDDEN.sub("", head)
    if len(text) <= len(head) and len(kept) <= limit:
        return kept
    mark = f" [... cut, {len(text)} characters]"
    return kept[: max(0, limit - len(mark))] + mark[:limit]


def name(text: str, limit: int = NAME) -> str:
    """One line: like `clean`, with every run of white space as one blank."""
    return _name(text, limit) if len(text) <= limit else " ".join(clean(text, limit).split())


@lru_cache(2048)
def _name(text: str, limit: int) -> str:
    """Names repeat in every trial: metrics, models, roles."""
    return " ".join(clean(text, limit).split())


def document(value: Any) -> Any:
    """A JSON document with clean strings and without NaN or infinities (they become null).

    Raises:
        StoreError: the document is larger than `DOCUMENT` characters.
    """
    return _document(value, [DOCUMENT])


def _document(value: Any, left: list[int]) -> Any:
    left[0] -= 8
    if isinstance(value, str):
        left[0] -= len(value)
    if left[0] < 0:
        raise StoreError(f"a document of more than {DOCUMENT} characters was refused.", "Store less, or a file's name.")
    if isinstance(value, str):
        return clean(value, LONG)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name(str(key)): _document(item, left) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_document(item, left) for item in value]
    if value is None or isinstance(value, bool | int):
        return value
    return clean(str(value), LONG)
