"""One HTTP call to an OpenAI-compatible endpoint, and what its failures mean.

Servers are not trusted: answers are bounded, and neither prompts nor the key go where nobody sent them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swarm.agents.llm import failures, framing, reply
from swarm.agents.llm.dialect import Dialect, Schema, is_about_roles
from swarm.agents.llm.endpoint import OPENAI, LlmEndpoint
from swarm.agents.llm.reply import ChatReply
from swarm.agents.llm.retry import CallError, ContextError

if TYPE_CHECKING:
    import openai

    from swarm.agents.llm.server import LocalServer

Message = dict[str, Any]

# What reading JSON of any shape can raise.
_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)


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
        self.dialect = Dialect() if server is None else Dialect(structured="grammar")
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
            return reply.model_names(json.loads(self._openai.models.with_raw_response.list().text))
        except openai.OpenAIError as error:
            raise failures.explain(error, self.endpoint) from error
        except _UNREADABLE as error:
            raise failures.not_ours(self.endpoint, error) from error

    def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        tools: Sequence[dict[str, Any]] = (),
        max_output: int,
        temperature: float | None = None,
    ) -> ChatReply:
        """Ask once; only requests that the server does not understand are sent again, in a simpler dialect.

        `schema` is the JSON schema of the answer.

        Raises:
            CallError: no answer, with what it means.
        """
        import openai

        dialect = self.dialect
        while True:
            started = time.monotonic()
            prompt: Any = dialect.messages(messages)
            arguments = dialect.arguments(schema, list(tools), max_output, temperature)
            try:
                found = self._openai.chat.completions.with_raw_response.create(
                    model=self.model, messages=prompt, **arguments
                )
                answer = self._read(found.text, time.monotonic() - started)
            except openai.OpenAIError as error:
                explained = failures.explain(error, self.endpoint)
                refused = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
                refused |= is_about_roles(str(error))  # some servers send it as a failure of theirs
                simpler = dialect.simpler(str(error)) if refused and not isinstance(explained, ContextError) else None
                if simpler is None:
                    raise explained from error
                dialect = simpler
                continue
            except _UNREADABLE as error:
                raise failures.not_ours(self.endpoint, error) from error
            # Only what made the difference is given up for good.
            self.dialect = dialect
            return answer

    def _read(self, text: str, seconds: float) -> ChatReply:
        """The answer in a body that came with status 200.

        Raises:
            CallError: the body is an error, or no completion.
            ValueError, TypeError, AttributeError, RecursionError: it is no JSON, or of another shape.
        """
        body = framing.read(text)
        if body is None:
            raise failures.not_ours(self.endpoint, "no object")
        found = reply.read(body, seconds, self.endpoint.without_key)
        if found is None or failures.error_in(body) is not None:
            raise failures.of_body(body, self.endpoint)
        return found

    def close(self) -> None:
        """Drop the connections, so that a call in flight fails, and end a server of ours."""
        if "_openai" in self.__dict__:
            self._openai.close()
        if self._server is not None:
            self._server.close()
