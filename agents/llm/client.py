"""One HTTP call to an OpenAI-compatible endpoint, and what its failures mean.

Servers are not trusted: answers are bounded, and neither prompts nor the key go where nobody sent them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from swarm.agents.llm.endpoint import OPENAI, Dialect, LlmEndpoint
from swarm.agents.llm.retry import CallError, retry_after
from swarm.experiments.engines.base import reason_in
from swarm.memory.text import clean

if TYPE_CHECKING:
    import openai

    from swarm.agents.llm.server import LocalServer

Message = dict[str, Any]

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
MAX_ANSWER_CHARS = 200_000
"""Characters of an answer that are looked at."""

MAX_TOOL_CALLS = 4
"""Tool calls of one answer that are looked at; the rest is dropped."""

MAX_ARGUMENT_CHARS = 8_000
"""Characters of a tool call's arguments; longer ones count as none."""

MAX_REASON_CHARS = 120
"""Characters of a server's reason that an error shows."""

MAX_TOKENS = 1_000_000_000
"""What a server may say that one call has cost."""

# What reading JSON of any shape can raise.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to use, with its arguments as it wrote them."""

    identity: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatReply:
    """An answer. Token counts are None when the server does not tell."""

    text: str
    tools: tuple[ToolCall, ...]
    tokens_in: int | None
    tokens_out: int | None
    seconds: float


class Client:
    """Calls one endpoint. Safe between threads.

    Args:
        endpoint: where.
        timeout: seconds for connecting and for each pause of the server.
        server: the server process, if it is ours: calls wait until it is up, and it ends with the client.
    """

    def __init__(self, endpoint: LlmEndpoint, timeout: float, server: LocalServer | None = None) -> None:
        self.endpoint = endpoint
        self._server = server
        self.dialect = Dialect()
        self._timeout = timeout

    @cached_property
    def _openai(self) -> openai.OpenAI:
        import openai

        from swarm.agents.llm.transport import guard

        if self._server is not None:
            self._server.wait()
        # A server on this machine is not looked for behind a proxy.
        transport = openai.DefaultHttpxClient(
            trust_env=not self.endpoint.loopback, follow_redirects=False, event_hooks=guard(self._timeout)
        )
        client = openai.OpenAI(
            base_url=self.endpoint.url,
            api_key=self.endpoint.key or "none",
            timeout=self._timeout,
            max_retries=0,
            default_headers={"accept-encoding": "identity"},
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
        except _UNREADABLE as error:
            raise _not_ours(self.endpoint, error) from error

    def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: type[BaseModel] | None = None,
        tools: Sequence[dict[str, Any]] = (),
        max_output: int,
        temperature: float | None = None,
    ) -> ChatReply:
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
                return _reply(found, time.monotonic() - started, self.endpoint)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if not self.dialect.degrade(str(error)):
                    raise _explain(error, self.endpoint) from error
                continue
            except openai.OpenAIError as error:
                raise _explain(error, self.endpoint) from error
            except _UNREADABLE as error:
                raise _not_ours(self.endpoint, error) from error

    def close(self) -> None:
        """Drop the connections, so that a call in flight fails, and end a server of ours."""
        if "_openai" in self.__dict__:
            self._openai.close()
        if self._server is not None:
            self._server.close()


def _reply(found: Any, seconds: float, endpoint: LlmEndpoint) -> ChatReply:
    """Read a completion whatever the server left out."""
    choices = getattr(found, "choices", None)
    if not choices:
        said = reason_in((getattr(found, "model_extra", None) or {}).get("error"))
        raise _not_ours(endpoint, clean(said, MAX_REASON_CHARS) or "no choices")
    message = getattr(choices[0], "message", None)
    usage = getattr(found, "usage", None)
    content = getattr(message, "content", None)
    text = clean(endpoint.without_key(content), MAX_ANSWER_CHARS) if isinstance(content, str) else ""
    tools = _tools(getattr(message, "tool_calls", None) or (), endpoint)
    silent = not content and not tools
    return ChatReply(
        text=text,
        tools=tools,
        # No prompt is of no tokens, and no words are: a zero is a server that does not count.
        tokens_in=_count(getattr(usage, "prompt_tokens", None), 1),
        tokens_out=_count(getattr(usage, "completion_tokens", None), 0 if silent else 1),
        seconds=seconds,
    )


def _tools(calls: Any, endpoint: LlmEndpoint) -> tuple[ToolCall, ...]:
    """The first tool calls, fit to be answered and to be sent back."""
    found = []
    for call in list(calls)[:MAX_TOOL_CALLS]:
        function = getattr(call, "function", None)
        if function is not None:
            parts = (call.id, function.name, function.arguments)
            identity, name, arguments = (clean(endpoint.without_key(str(part)), MAX_ANSWER_CHARS) for part in parts)
            found.append(
                ToolCall(identity[:64], name[:64], arguments if len(arguments) <= MAX_ARGUMENT_CHARS else "{}")
            )
    return tuple(found)


def _count(value: object, least: int) -> int | None:
    if not isinstance(value, int) or value < least:
        return None
    return min(value, MAX_TOKENS)


def _not_ours(endpoint: LlmEndpoint, reason: object) -> CallError:
    said = endpoint.without_key(str(reason))[:MAX_REASON_CHARS]
    return CallError(
        f"{endpoint.url} did not answer like an OpenAI-compatible server ({said}).",
        "Check the URL; it usually ends in /v1.",
        outcome="garbled",
        retry=True,
        billed=True,
    )


def _explain(error: openai.OpenAIError, endpoint: LlmEndpoint) -> CallError:
    import openai

    where = endpoint.url
    if isinstance(error, openai.APITimeoutError):
        return CallError(f"{where} did not answer in time.", outcome="timeout", retry=True, billed=True)
    if isinstance(error, openai.APIConnectionError):
        cause = error.__cause__ or error
        # Refused before anything was sent: nothing can have been counted.
        refused = type(cause).__name__ == "ConnectError"
        return CallError(
            f"no connection to {where} ({endpoint.without_key(str(cause))[:120]}).",
            "Is the server running?",
            outcome="connection",
            retry=True,
            billed=not refused,
        )
    if isinstance(error, openai.APIResponseValidationError):
        return _not_ours(endpoint, error)
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, endpoint)
    return CallError(f"{where}: {endpoint.without_key(str(error))[:200]}", outcome="garbled", retry=True, billed=True)


def _of_status(error: openai.APIStatusError, endpoint: LlmEndpoint) -> CallError:
    where, status = endpoint.url, error.status_code
    problem, remedy, outcome = "", "", f"http_{status}"
    if 300 <= status < 400:
        target = clean(endpoint.without_key(error.response.headers.get("location", "elsewhere")), 160)
        problem = f"{where} redirects to {target} ({status}), where nothing is sent unasked."
        remedy = "Give --llm the address that answers."
    elif status in (401, 403):
        problem, remedy = f"{where} refuses the key ({status}).", "Check the key."
    elif status == 404:
        problem = f"{where} knows no such address or model {endpoint.model!r} (404)."
        remedy = "Check the URL (it usually ends in /v1) and --llm-model."
    elif "insufficient_quota" in str(error.body):
        problem, outcome = f"the account at {where} has no credit left.", "quota"
    if problem:
        return CallError(problem, remedy, outcome=outcome, fatal=True)
    return CallError(
        f"{where} answers {status}: {endpoint.without_key(str(error.message))[:160]}",
        outcome=outcome,
        retry=status in RETRIED_STATUSES or status >= 500,
        retry_after=retry_after(error.response.headers.get("retry-after")),
    )
