"""The text that experiments read: calibration and scored windows that never share a word, and its token ids."""

from __future__ import annotations

import hashlib
import math
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.artifacts import CAPTURE_VERSION
from swarm.experiments.corpora import BUNDLED, TITLES
from swarm.experiments.environment import version
from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from swarm.experiments.artifacts import Capture, CaptureStore, CaptureWriter
    from swarm.experiments.models.base import LoadedModel

Split = Literal["scored", "calibration"]
SCORED_SHARE = 0.8
MAX_CHARACTERS = 4_000_000
DEFAULT = "prose"
TOO_SHORT = "Give a longer text with --corpus, or shorten the context."
GOLDEN = (math.sqrt(5) - 1) / 2


class Tokenizer(Protocol):
    """What a text is cut into tokens by."""

    @property
    def bos_token_id(self) -> int | None:
        """The token that begins a sequence."""

    def encode(self, text: str, add_special_tokens: bool) -> Sequence[int] | NDArray[np.int32]:
        """Token ids of a text."""


class CorpusError(UsageError):
    """A text that cannot be read, or is too short for the windows wanted."""


class Corpus:
    """A text in two parts: what is scored comes first, the last fifth is for calibration alone.

    The cut is in the characters (at a line's end), so that the parts are disjoint for every tokenizer.

    Args:
        text: the whole text; characters beyond `MAX_CHARACTERS` are left out.
        source: what to call it in errors.
    """

    def __init__(self, text: str, source: str) -> None:
        self.text = text[:MAX_CHARACTERS]
        self.source = source

    @classmethod
    def open(cls, path: Path | None = None) -> Corpus:
        """The text in a UTF-8 file, or one that comes with CPython.

        Args:
            path: the file, or the name of a bundled text: `prose` (CPython's topic help, the default), `code` (its
                standard library) or `dialogue` (interactive sessions of it and NumPy).

        Raises:
            CorpusError: the file is missing, not readable, not UTF-8 text, or empty.
        """
        name = DEFAULT if path is None else str(path)
        if name in BUNDLED:
            text = BUNDLED[name]()
            if not text.strip():
                raise CorpusError(
                    f"this Python comes without the text {name!r}.", "Give a UTF-8 text file with --corpus."
                )
            return cls(text, TITLES[name])
        path = Path(name)
        remedy = f"Give a UTF-8 text file with --corpus, or one of: {', '.join(BUNDLED)}."
        try:
            with path.open("rb") as file:
                data = file.read(4 * MAX_CHARACTERS)
        except OSError as error:
            raise CorpusError(f"cannot read the corpus {path}: {error.strerror or error}.", remedy) from error
        if len(data) == 4 * MAX_CHARACTERS:
            data = data[: _whole_characters(data)]
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise CorpusError(f"the corpus {path} is not UTF-8 text (byte {error.start}).", remedy) from error
        if "\0" in text:
            raise CorpusError(f"the corpus {path} is a binary file.", remedy)
        if not text.strip():
            raise CorpusError(f"the corpus {path} is empty.", remedy)
        return cls(text, str(path))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def part(self, split: Split) -> str:
        """The text of one part."""
        cut = self.text.rfind("\n", 0, int(len(self.text) * SCORED_SHARE)) + 1
        cut = cut or int(len(self.text) * SCORED_SHARE)
        return self.text[:cut] if split == "scored" else self.text[cut:]

    def check_length(self, length: int, count: int) -> None:
        """Refuse a text that is too short for `count` windows of `length` tokens whatever the tokenizer.

        Raises:
            CorpusError: the scored part has fewer bytes than the windows have tokens.
        """
        size = len(self.part("scored").encode())
        if size < length * count:
            raise CorpusError(
                f"{self.source} is too short: its scored part has {size} bytes, {count} windows of {length} tokens "
                "were wanted.",
                TOO_SHORT,
            )

    def windows(
        self,
        tokenizer: Tokenizer,
        length: int,
        count: int,
        replicate: int = 0,
        *,
        split: Split = "scored",
        bos: bool = False,
    ) -> NDArray[np.int32]:
        """Windows of text, spread over one part and disjoint: token ids [count, length].

        Replicates read other windows. They share no token until the part is used up; then windows begin elsewhere,
        and overlap earlier ones.

        Args:
            tokenizer: the model's tokenizer.
            length: tokens of a window, the beginning-of-sequence token included.
            count: number of windows.
            replicate: which windows.
            split: which part of the text.
            bos: put the tokenizer's beginning-of-sequence token first.

        Raises:
            CorpusError: the part is too short for `count` windows.
        """
        body = length - 1 if bos else length
        tokens = np.asarray(tokenizer.encode(self.part(split), add_special_tokens=False), np.int32)
        slots = len(tokens) // body
        if slots < count:
            raise CorpusError(
                f"{self.source} is too short: its {split} part has {len(tokens)} tokens, "
                f"{count} windows of {length} were wanted.",
                TOO_SHORT,
            )
        # The last window is left out: room for later rounds to begin at another token.
        per_round = max(slots - 1, count) // count
        round_, turn = divmod(replicate, per_round)
        room = len(tokens) - max(slots - 1, count) * body
        offset = int(room * math.modf(round_ * GOLDEN)[0])
        chosen = _spread(max(slots - 1, count))[turn * count : (turn + 1) * count]
        starts = np.sort(chosen) * body + offset
        found = np.stack([tokens[start : start + body] for start in starts])
        if not bos:
            return found
        return np.concatenate([np.full((count, 1), tokenizer.bos_token_id, np.int32), found], axis=1)


def _spread(n: int) -> NDArray[np.int64]:
    """The numbers below `n` in an order whose every run is spread evenly (golden-ratio sequence)."""
    return np.argsort((np.arange(n) * GOLDEN) % 1.0, kind="stable")


def _whole_characters(data: bytes) -> int:
    """Length of `data` without a character that was cut at its end."""
    end = len(data)
    while end and data[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if end and data[end - 1] >= 0x80 else len(data)


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
            "texts": hashlib.sha256("\0".join(self._texts).encode()).hexdigest(),
            "version": CAPTURE_VERSION,
            "transformers": version("transformers"),
        }
        return self._captures.get("tokens", key, self._write)

    def _write(self, writer: CaptureWriter) -> None:
        tokenizer = self._loaded.read_tokenizer()
        for text, name in self._texts.items():
            writer.save(name, np.array(tokenizer.encode(text, add_special_tokens=False), np.int32))
        writer.facts["bos"] = tokenizer.bos_token_id
