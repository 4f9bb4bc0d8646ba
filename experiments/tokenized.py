"""Texts as token ids, remembered so that the tokenizer that made them can go."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlx_lm.tokenizer_utils import TokenizerWrapper


class RememberingTokenizer:
    """Encodes like a tokenizer that is read only for a text that is new, and let go right after.

    A vocabulary of 262,144 tokens takes seconds to read and 300 MB to keep.

    Args:
        read: reads the tokenizer.
    """

    def __init__(self, read: Callable[[], TokenizerWrapper]) -> None:
        self._read = read
        self._known: dict[tuple[str, bool], list[int]] = {}
        self.bos_token_id: int | None = None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text."""
        if (text, add_special_tokens) not in self._known:
            tokenizer = self._read()
            self.bos_token_id = tokenizer.bos_token_id
            self._known[text, add_special_tokens] = list(tokenizer.encode(text, add_special_tokens=add_special_tokens))
        return self._known[text, add_special_tokens]
