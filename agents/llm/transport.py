"""Bounds on what a server may send: bytes, seconds, and no compression that could unfold to any size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx2

MAX_BODY_BYTES = 4_000_000
"""Bytes of an answer; the longest that is of use is far shorter."""


class ExcessiveAnswerError(ValueError):
    """A server sent more than an answer can be, or in a form that could be."""


def guard(seconds: float) -> dict[str, list[Callable[..., Any]]]:
    """Event hooks of an HTTP client that end answers of too many bytes, and bodies that take longer than `seconds`."""

    def check(response: httpx2.Response) -> None:
        coding = response.headers.get("content-encoding", "identity")
        if coding.strip().lower() not in ("", "identity"):
            raise ExcessiveAnswerError(f"it compresses its answers ({coding[:40]}) although it was asked not to")
        if isinstance(response.stream, httpx2.SyncByteStream):
            response.stream = _Bounded(response.stream, seconds)

    return {"response": [check]}


class _Bounded(httpx2.SyncByteStream):
    def __init__(self, stream: httpx2.SyncByteStream, seconds: float) -> None:
        self._stream = stream
        self._seconds = seconds

    def __iter__(self) -> Iterator[bytes]:
        size, deadline = 0, time.monotonic() + self._seconds
        for chunk in self._stream:
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise ExcessiveAnswerError(f"its answer is longer than {MAX_BODY_BYTES} bytes")
            if time.monotonic() > deadline:
                raise httpx2.ReadTimeout(f"the answer did not end within {self._seconds:g} s")
            yield chunk

    def close(self) -> None:
        self._stream.close()
