"""One HTTP call to an OpenAI-compatible endpoint, and what its failures mean. Knows no roles and no money."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from swarm.agents.llm.dialect import Dialect
from swarm.agents.llm.endpoints import OPENAI, Endpoint
from swarm.agents.llm.errors import CallError
from swarm.agents.llm.patience import retry_after

if TYPE_CHECKING:
    import openai

    from swarm.agents.llm.local import LocalServer

Message = dict[str, Any]

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_ANSWER = 200_000
"""Characters of an answer that are looked at."""


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to use, with its arguments as it wrote them."""

    identity: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """An answer. Token counts are None when the server does not tell."""

    text: str
    tools: tuple[ToolCall, ...]
    tokens_in: int | None
    tokens_out: int | None
    seconds: float
    finish: str


class Client:
    """Calls one endpoint. Safe between threads.

    Args:
        endpoint: where.
        timeout: seconds for connecting and for each pause of the server.
        server: the server process, if it is ours: calls wait until it is up, and it ends with the client.
    """

    def __init__(self, endpoint: Endpoint, timeout: float, server: LocalServer | None = None) -> None:
        self.endpoint = endpoint
        self._server = server
        self.dialect = Dialect()
        self._timeout = timeout

    @cached_property
    def _openai(self) -> openai.OpenAI:
        import openai

        if self._server is not None:
            self._server.wait()
        # A server on this machine is not looked for behind a proxy.
        transport = openai.DefaultHttpxClient(trust_env=not self.endpoint.loopback)
        client = openai.OpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.key or "none",
            timeout=self._timeout,
            max_retries=0,
            http_client=transport,
        )
        if self.endpoint.url != OPENAI:
            # Taken from the environment by the library; they belong to OpenAI and to nobody else.
            client.organization = client.project = None
        return client

    @cached_property
    def model(self) -> str:
        """The model's name: as given, else the first that the server lists.

        Raises:
            CallError: the server lists none.
        """
        if self.endpoint.model:
            return self.endpoint.model
        names = self.models()
        if not names:
            raise CallError("the endpoint lists no model.", "Give --llm-model.", outcome="no_model", fatal=True)
        return names[0]

    @property
    def label(self) -> str:
        """What people call the model: a server of our own knows it under another name."""
        return self.model if self._server is None else self._server.model

    def models(self) -> list[str]:
        """The models that the server lists.

        Raises:
            CallError: it does not answer.
        """
        import openai

        try:
            return [model.id for model in self._openai.models.list().data]
        except openai.OpenAIError as error:
            raise _explain(error, self.endpoint) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise _not_ours(self.endpoint, error) from error

    def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        tools: Sequence[dict[str, Any]] = (),
        max_output: int,
        temperature: float | None = None,
    ) -> Reply:
        """Ask once; only requests that the server does not understand are sent again, in a simpler dialect.

        Raises:
            CallError: no answer, with what it means.
        """
        import openai

        while True:
            started = time.monotonic()
            arguments = self.dialect.arguments(schema, list(tools), max_output, temperature)
            try:
                prompt: Any = list(messages)
                found = self._openai.chat.completions.create(model=self.model, messages=prompt, **arguments)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self.dialect.degrade(str(error)):
                    raise _explain(error, self.endpoint) from error
                continue
            except openai.OpenAIError as error:
                raise _explain(error, self.endpoint) from error
            except (ValueError, TypeError) as error:
                raise _not_ours(self.endpoint, error) from error
            return _reply(found, time.monotonic() - started, self.endpoint)

    def close(self) -> None:
        """Drop the connections, so that a call in flight fails, and end a server of ours."""
        if "_openai" in self.__dict__:
            self._openai.close()
        if self._server is not None:
            self._server.close()


def _reply(found: Any, seconds: float, endpoint: Endpoint) -> Reply:
    """Read a completion whatever the server left out."""
    choices = getattr(found, "choices", None)
    if not choices:
        raise _not_ours(endpoint, "no choices")
    message = getattr(choices[0], "message", None)
    usage = getattr(found, "usage", None)
    calls = getattr(message, "tool_calls", None) or ()
    text = getattr(message, "content", None)
    return Reply(
        text=text[:MAX_ANSWER] if isinstance(text, str) else "",
        tools=tuple(
            ToolCall(str(call.id), str(call.function.name), str(call.function.arguments))
            for call in calls
            if getattr(call, "function", None) is not None
        ),
        tokens_in=_count(getattr(usage, "prompt_tokens", None)),
        tokens_out=_count(getattr(usage, "completion_tokens", None)),
        seconds=seconds,
        finish=str(getattr(choices[0], "finish_reason", "") or ""),
    )


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and value >= 0 else None


def _not_ours(endpoint: Endpoint, reason: object) -> CallError:
    return CallError(
        f"{endpoint.url} did not answer like an OpenAI-compatible server ({str(reason)[:120]}).",
        "Check the URL; it usually ends in /v1.",
        outcome="garbled",
        retry=True,
        billed=True,
    )


def _explain(error: openai.OpenAIError, endpoint: Endpoint) -> CallError:
    import openai

    where = endpoint.url
    if isinstance(error, openai.APITimeoutError):
        return CallError(f"{where} did not answer in time.", outcome="timeout", retry=True, billed=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        # Refused before anything was sent: nothing can have been counted.
        refused = type(cause).__name__ == "ConnectError"
        return CallError(
            f"no connection to {where} ({str(cause)[:120]}).",
            "Is the server running?",
            outcome="connection",
            retry=True,
            billed=not refused,
        )
    if isinstance(error, openai.APIResponseValidationError):
        return _not_ours(endpoint, error)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, where, endpoint.model)
    return CallError(f"{where}: {str(error)[:200]}", outcome="garbled", retry=True, billed=True)


def _of_status(error: openai.APIStatusError, where: str, model: str) -> CallError:
    status = error.status_code
    outcome = f"http_{status}"
    if status in (401, 403):
        return CallError(f"{where} refuses the key ({status}).", "Check the key.", outcome=outcome, fatal=True)
    if status == 404:
        return CallError(
            f"{where} knows no such address or model {model!r} (404).",
            "Check the URL (it usually ends in /v1) and --llm-model.",
            outcome=outcome,
            fatal=True,
        )
    if "insufficient_quota" in str(error.body):
        return CallError(f"the account at {where} has no credit left.", outcome="quota", fatal=True)
    return CallError(
        f"{where} answers {status}: {str(error.message)[:160]}",
        outcome=outcome,
        retry=status in RETRIED or status >= 500,
        retry_after=retry_after(error.response.headers.get("retry-after")),
    )
