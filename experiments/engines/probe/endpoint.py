"""One OpenAI-compatible endpoint: asks it for a completion as a stream and notes when each piece arrives."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from swarm.experiments.engines.base import Engine, Host, reason_in, recognise
from swarm.experiments.engines.probe.http_host import HttpHost, is_loopback, normalise, public
from swarm.kernels.errors import SwarmError, UsageError

if TYPE_CHECKING:
    from openai import OpenAI

MAX_REASON_CHARS = 200
# A model may end an answer at once: it is asked so often, about other text each time.
TRIES = 4

Answer = TypeVar("Answer")


class ProbeError(SwarmError):
    """An endpoint that does not answer, or not as an OpenAI-compatible server would."""


class NoTextError(ProbeError):
    """An answer without any text: the model ended it at once, or does not answer at all."""


class TooLongError(ProbeError):
    """A prompt that the engine refuses, as a rule because it is longer than its context."""


@dataclass(frozen=True)
class Exchange:
    """One streamed completion. `arrivals` are the seconds from the request to every piece of `text`.

    `prompt_tokens` is 0 where the engine does not count them.
    `cached_tokens` are prompt tokens that the engine says it did not compute again, None when it does not say.
    """

    prompt_tokens: int
    completion_tokens: int
    arrivals: tuple[float, ...]
    cached_tokens: int | None = None
    engine: Mapping[str, float] = field(default_factory=dict)
    text: str = ""

    @property
    def first(self) -> float:
        """Seconds to the first piece of text."""
        return self.arrivals[0]

    @property
    def decode_seconds(self) -> float:
        """Seconds from the first to the last piece of text."""
        return self.arrivals[-1] - self.arrivals[0]

    @property
    def decode_rate(self) -> float | None:
        """Tokens per second after the first piece of text; None when there was no second one.

        A piece may stand for several tokens (half a character is held back): all are taken to be of the mean length.
        """
        pieces = len(self.arrivals)
        if pieces < 2 or self.decode_seconds <= 0:
            return None
        return self.completion_tokens * (1 - 1 / pieces) / self.decode_seconds

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens per second to the first token, which is part of that time."""
        return self.prompt_tokens / self.first


class Endpoint:
    """A running engine and the model that it is asked for.

    Args:
        url: where it is, with or without `/v1`.
        model: its model; left out, the only one that it lists.
        api_key: sent when given; no key of the environment is.
        timeout: seconds to wait for any piece of an answer.

    Raises:
        UsageError: the URL is none, or the model has to be named.
        ProbeError: nothing answers.
    """

    def __init__(self, url: str, model: str | None = None, *, api_key: str = "", timeout: float = 600.0) -> None:
        from openai import DefaultHttpx2Client, OpenAI

        self.url = normalise(url)
        self.timeout = timeout
        self.host: Host = HttpHost(self.url, api_key, timeout)
        self._client = OpenAI(
            base_url=self.url,
            api_key=api_key or "none",
            max_retries=0,
            timeout=timeout,
            http_client=DefaultHttpx2Client(trust_env=not is_loopback(self.url)),
        )
        # The client takes these from the environment; they are meant for openai.com and for nobody else.
        self._client.organization = self._client.project = None
        self._chat = False
        self.fingerprint = ""
        """What the engine signs its answers with, if anything; often its version."""
        listed = self._list()
        self.engine: Engine = recognise(self.host)
        self.model = model or self._only(listed)

    @property
    def name(self) -> str:
        """The URL without credentials."""
        return public(self.url)

    @property
    def chat(self) -> bool:
        """Whether the engine has chat completions only."""
        return self._chat

    def ask(self, prompt: str, max_tokens: int) -> Exchange:
        """Stream a completion of `prompt`, greedily, of at most `max_tokens` tokens.

        Raises:
            TooLongError: the engine refuses the prompt.
            ProbeError: it does not answer, breaks off, or answers without text or token counts.
        """
        import openai

        try:
            return self._ask(self._client, prompt, max_tokens)
        except openai.NotFoundError as error:
            if self._chat or "model" in str(error).lower():
                raise ProbeError(f"{self.name} has no model {self.model!r}.", "Name one of its models.") from error
            self._chat = True
            return self.ask(prompt, max_tokens)
        except openai.AuthenticationError as error:
            raise ProbeError(f"{self.name} wants an API key.", "Give it with --api-key.") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError, openai.ConflictError) as error:
            raise TooLongError(f"{self.name} refuses the request: {_brief(error)}.", "See the engine's log.") from error
        except openai.APITimeoutError as error:
            raise ProbeError(f"{self.name} sent nothing for {self.timeout:g} s.", "Give a longer --timeout.") from error
        except openai.APIConnectionError as error:
            raise ProbeError(f"nothing answers at {self.name}.", "Start the engine, or correct --endpoint.") from error
        except openai.APIError as error:
            raise ProbeError(f"{self.name} failed: {_brief(error)}.", "See the engine's log.") from error
        except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
            raise ProbeError(f"{self.name} does not speak the protocol: {_brief(error)}.", _PROTOCOL) from error
        except Exception as error:
            # The HTTP library under the client lets its own errors through when a stream breaks off.
            if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2", "h11"):
                raise ProbeError(f"{self.name} broke off: {_brief(error)}.", "See the engine's log.") from error
            raise

    def _ask(self, client: OpenAI, prompt: str, max_tokens: int) -> Exchange:
        common: dict[str, Any] = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": dict(self.engine.extra_body),
        }
        started = time.perf_counter()
        if self._chat:
            messages: Any = [{"role": "user", "content": prompt}]
            answer = client.chat.completions.with_raw_response.create(messages=messages, **common)
        else:
            answer = client.completions.with_raw_response.create(prompt=prompt, **common)
        if "json" in answer.headers.get("content-type", ""):
            # No stream: as a rule an error that came with the status of success.
            body = answer.http_response.read().decode("utf-8", "replace")
            raise ProbeError(f"{self.name} sent no stream but: {_said(body)}.", "See the engine's log.")
        return self._listen(answer.parse(), started)

    def _listen(self, stream: Iterable[Any], started: float) -> Exchange:
        arrivals: list[float] = []
        text = ""
        told: dict[str, float] = {}
        usage = None
        for piece in stream:
            said = "".join(_text(choice) for choice in piece.choices or ())
            text += said
            if said:
                arrivals.append(time.perf_counter() - started)
            usage = piece.usage or usage
            self.fingerprint = piece.system_fingerprint or self.fingerprint
            told |= self.engine.timings(piece.model_extra or {})
        if not arrivals:
            raise NoTextError(f"{self.name} sent no text.", "Check that the model answers at all.")
        if usage is None or usage.prompt_tokens is None:
            raise ProbeError(f"{self.name} does not count tokens (no usage in its stream).", "Update the engine.")
        details = usage.prompt_tokens_details
        return Exchange(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens or len(arrivals),
            arrivals=tuple(arrivals),
            cached_tokens=details.cached_tokens if details else None,
            engine=told,
            text=text,
        )

    def _list(self) -> list[str]:
        """Names of the engine's models. Some fail to list them and serve all the same."""
        import openai

        try:
            return [model.id for model in self._client.models.list()]
        except openai.AuthenticationError as error:
            raise ProbeError(f"{self.name} wants an API key.", "Give it with --api-key.") from error
        except (openai.APIConnectionError, openai.APIStatusError):
            if self.host.get("/").status == 0 and self.host.get("/health").status == 0:
                raise ProbeError(
                    f"nothing answers at {self.name}.", "Start the engine, or correct --endpoint."
                ) from None
            return []
        except (ValueError, TypeError, AttributeError):
            return []

    def _only(self, listed: list[str]) -> str:
        if len(listed) == 1:
            return listed[0]
        if not listed and self.engine.fallback_model:
            return self.engine.fallback_model
        if not listed:
            raise ProbeError(f"{self.name} lists no models.", "Name one with --model, or check the endpoint.")
        raise UsageError(f"{self.name} has {len(listed)} models: {', '.join(listed[:8])}.", "Name one with --model.")


def insist(ask: Callable[[], Answer]) -> Answer:
    """Ask again, up to `TRIES` times, where an answer ends before its first piece of text.

    Raises:
        NoTextError: so did every answer.
    """
    for _ in range(TRIES - 1):
        with suppress(NoTextError):
            return ask()
    return ask()


_PROTOCOL = "The endpoint must be OpenAI-compatible; its URL often ends in /v1."


def _text(choice: Any) -> str:
    """The text that a piece carries; thinking aloud counts."""
    delta = getattr(choice, "delta", None)
    if delta is None:
        return getattr(choice, "text", "") or ""
    extra = delta.model_extra or {}
    return delta.content or extra.get("reasoning_content") or extra.get("reasoning") or ""


def _said(body: str) -> str:
    """The reason in a JSON body, else its beginning, in one line."""
    try:
        said = reason_in(json.loads(body))
    except ValueError:
        said = ""
    return (said or " ".join(body.split()))[:MAX_REASON_CHARS].rstrip(".")


def _brief(error: BaseException) -> str:
    """What the server said, else what the error says, in one line."""
    text = reason_in(getattr(error, "body", None)) or " ".join(str(error).split())
    return (text[:MAX_REASON_CHARS] or type(error).__name__).rstrip(".")
