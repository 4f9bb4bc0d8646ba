"""Texts as token ids, made once per machine and model: trials map them and need no tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from swarm.experiments import identity
from swarm.experiments.environment import version

if TYPE_CHECKING:
    from swarm.experiments.artifacts import Capture, CaptureStore, Draft
    from swarm.experiments.models.base import LoadedModel

KIND = "tokens"


class TokenizedTexts:
    """Encodes some texts as a model's tokenizer does, without special tokens.

    The tokenizer is read only when no process on this machine has encoded these texts before, and let go right after:
    a vocabulary of 262,144 tokens takes seconds to read and 300 MB to keep.

    Args:
        loaded: the model.
        texts: the texts.
        captures: where token ids are kept.
    """

    def __init__(self, loaded: LoadedModel, texts: Sequence[str], captures: CaptureStore) -> None:
        self._loaded = loaded
        self._texts = {text: str(number) for number, text in enumerate(texts)}
        self._captures = captures

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a sequence."""
        found: int | None = self._capture.facts["bos"]
        return found

    def encode(self, text: str, add_special_tokens: bool = False) -> NDArray[np.int32]:  # noqa: ARG002
        """Token ids of one of the texts.

        Raises:
            KeyError: another text.
        """
        return np.array(self._capture[self._texts[text]])

    @cached_property
    def _capture(self) -> Capture:
        key: dict[str, str | int | float] = {
            "model": self._loaded.info.name,
            "tokenizer": self._loaded.tokenizer_digest(),
            "texts": sha256("\0".join(self._texts).encode()).hexdigest(),
            "version": identity.CAPTURE_VERSION,
            "transformers": version("transformers"),
        }
        return self._captures.get(KIND, key, self._write)

    def _write(self, draft: Draft) -> None:
        tokenizer = self._loaded.read_tokenizer()
        for text, name in self._texts.items():
            draft.save(name, np.array(tokenizer.encode(text, add_special_tokens=False), np.int32))
        draft.facts["bos"] = tokenizer.bos_token_id
