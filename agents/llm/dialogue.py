"""Asks an LLM for a structured answer and makes sure of it: tools, one repair, retries, money, breaker, records.

Knows roles by name only; what an answer is worth is decided by the caller's `use`.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from swarm.agents.llm import parsing, retry
from swarm.agents.llm.breaker import Breaker
from swarm.agents.llm.budget import Purse
from swarm.agents.llm.client import Client, Message, Reply
from swarm.agents.llm.errors import AnswerError, CallError
from swarm.agents.llm.prompts import Prompt
from swarm.agents.llm.settings import LlmSettings
from swarm.agents.llm.tools import Tools, declared
from swarm.memory.errors import BudgetError
from swarm.memory.records import MAX_TEXT, AgentCall

Answer = TypeVar("Answer", bound=BaseModel)
Kept = TypeVar("Kept")

TOOL_ROUNDS = 3
ECHO = 4_000
"""Characters of a rejected answer that the model is shown again."""


@dataclass(frozen=True)
class Used(Generic[Kept]):
    """What was kept of an answer, and why the rest was not."""

    kept: Kept | None
    reasons: tuple[str, ...] = ()


@dataclass
class Conversation:
    """Talks to one endpoint on behalf of one campaign. Safe between threads.

    Args:
        client: the endpoint.
        purse: who pays; None pays nothing and records nothing (`swarm probe`).
        tools: what may be looked up; None for nothing.
        settings: time, attempts and sizes.
        breaker: shared by all roles.
        closed: set when the campaign ends: no wait goes on.
    """

    client: Client
    purse: Purse | None
    tools: Tools | None
    settings: LlmSettings
    breaker: Breaker = field(default_factory=Breaker)
    closed: threading.Event = field(default_factory=threading.Event)
    _rng: random.Random = field(default_factory=random.Random)

    def ask(self, prompt: Prompt, brief: str, answer: type[Answer], use: Callable[[Answer], Used[Kept]]) -> Used[Kept]:
        """Ask for an answer of a given shape, with one repair round when nothing of it can be used.

        Args:
            prompt: the role's system prompt.
            brief: what the role is to know; data, never instructions.
            answer: the shape.
            use: keeps what stands up to the data.

        Raises:
            CallError: the endpoint gave no answer.
            BudgetError: the budget does not cover another call.
        """
        messages: list[Message] = [
            {"role": "system", "content": prompt.text},
            {"role": "user", "content": brief},
        ]
        used: Used[Kept] = Used(None, ("no answer",))
        for repair in (False, True):
            reply, finish = self._answer(prompt, messages, answer)
            try:
                used = use(parsing.read(reply.text, answer))
            except AnswerError as error:
                used = Used(None, (error.problem,))
            except BaseException as error:
                finish("error", type(error).__name__)
                raise
            outcome = "ok" if used.kept is not None else "invalid" if not repair else "invalid_again"
            finish(outcome, "; ".join(used.reasons))
            if used.kept is not None:
                break
            messages += [
                {"role": "assistant", "content": reply.text[:ECHO] or "(nothing)"},
                {"role": "user", "content": _complaint(used.reasons, answer)},
            ]
        return used

    def _answer(
        self, prompt: Prompt, messages: list[Message], answer: type[BaseModel]
    ) -> tuple[Reply, Callable[[str, str], None]]:
        """The first reply that is not a tool call."""
        for step in range(TOOL_ROUNDS + 1):
            offered = declared() if self.tools is not None and step < TOOL_ROUNDS else []
            reply, finish = self._call(prompt, messages, answer, offered)
            if not reply.tools or self.tools is None or not offered:
                return reply, finish
            finish("tool", ", ".join(call.name for call in reply.tools))
            messages.append(
                {
                    "role": "assistant",
                    "content": reply.text,
                    "tool_calls": [
                        {
                            "id": call.identity,
                            "type": "function",
                            "function": {"name": call.name, "arguments": call.arguments},
                        }
                        for call in reply.tools
                    ],
                }
            )
            for call in reply.tools:
                found = self.tools.use(call.name, call.arguments)
                messages.append({"role": "tool", "tool_call_id": call.identity, "content": found})
        raise CallError("the model asked for tools without end.", outcome="tools")

    def _call(
        self, prompt: Prompt, messages: list[Message], answer: type[BaseModel], tools: list[dict[str, Any]]
    ) -> tuple[Reply, Callable[[str, str], None]]:
        """One answered call, after as many attempts as it takes and is allowed; each attempt is paid and recorded."""
        attempts = self.settings.llm_attempts
        for attempt in range(1, attempts + 1):
            self.breaker.enter()
            try:
                return self._attempt(prompt, messages, answer, tools)
            except CallError as error:
                self.breaker.failed(error)
                wait = error.retry_after if error.retry_after is not None else retry.delay(attempt, self._rng)
                last = attempt == attempts or not error.retry or wait > retry.LONGEST
                if last or self.closed.wait(wait):
                    raise
        raise CallError("no attempt is left.", outcome="attempts")

    def _attempt(
        self, prompt: Prompt, messages: list[Message], answer: type[BaseModel], tools: list[dict[str, Any]]
    ) -> tuple[Reply, Callable[[str, str], None]]:
        record = self._open(prompt, messages, answer, tools)
        started = time.monotonic()
        try:
            reply = self.client.complete(
                messages,
                schema=answer,
                tools=tools,
                max_output=self.settings.output_tokens,
                temperature=self.settings.llm_temperature,
            )
        except CallError as error:
            record(None, time.monotonic() - started, error.outcome, error.problem, error.billed)
            raise
        except BaseException:
            record(None, time.monotonic() - started, "error", "", True)
            raise
        self.breaker.succeeded()
        return reply, lambda outcome, message: record(reply, reply.seconds, outcome, message, True)

    def _open(
        self, prompt: Prompt, messages: list[Message], answer: type[BaseModel], tools: list[dict[str, Any]]
    ) -> Callable[[Reply | None, float, str, str, bool], None]:
        """Reserve the most that a call can cost; returns what settles and records it."""
        model = self.client.label
        extra = [answer.model_json_schema(), tools]
        base = AgentCall(role=prompt.role, prompt_hash=prompt.digest, model=model[:200], outcome="budget")
        if self.purse is None:
            return lambda *_: None
        purse = self.purse
        try:
            hold = purse.reserve(prompt.role, messages, extra, self.settings.output_tokens)
        except BudgetError as error:
            purse.refused(base.model_copy(update={"message": error.problem[:MAX_TEXT]}))
            raise

        def record(reply: Reply | None, seconds: float, outcome: str, message: str, billed: bool) -> None:
            # What the server does not tell is counted as the most it can have been.
            tokens_in, tokens_out = (hold.tokens_in, hold.tokens_out) if billed else (0, 0)
            if reply is not None:
                tokens_in = hold.tokens_in if reply.tokens_in is None else reply.tokens_in
                tokens_out = hold.tokens_out if reply.tokens_out is None else reply.tokens_out
            purse.settle(
                hold,
                base.model_copy(
                    update={
                        "tokens_in": tokens_in,
                        "tokens_out": tokens_out,
                        "seconds": seconds,
                        "outcome": outcome[:64],
                        "message": message[:MAX_TEXT],
                    }
                ),
            )
            if reply is not None and tokens_in + tokens_out > hold.tokens_in + hold.tokens_out:
                over = "the endpoint ignores the limit on its output: nothing more is asked, to keep the budget."
                self.breaker.failed(CallError(over, outcome="overrun", fatal=True))

        return record

    def close(self) -> None:
        """End all waits and drop the connections."""
        self.closed.set()
        self.client.close()


def _complaint(reasons: tuple[str, ...], answer: type[BaseModel]) -> str:
    schema = json.dumps(answer.model_json_schema(), ensure_ascii=False)
    return (
        f"Nothing of that can be used: {'; '.join(reasons)[:1_500]}\n"
        f"Answer once more, with JSON of this schema and nothing else:\n{schema}"
    )
