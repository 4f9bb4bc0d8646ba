"""Asks an LLM for a structured answer: tools, one repair, retries, reserved budget, breaker, records.

What an answer is worth is decided by the caller's `use`.
"""

from __future__ import annotations

import json
import random
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from swarm.agents.llm import parsing, retry
from swarm.agents.llm.budget import CallBudget
from swarm.agents.llm.client import Client, Message
from swarm.agents.llm.dialect import Schema, strict_schema
from swarm.agents.llm.endpoint import LlmSettings
from swarm.agents.llm.prompts import Prompt
from swarm.agents.llm.reply import ChatReply
from swarm.agents.llm.retry import AnswerError, CallError, CircuitBreaker, ContextError
from swarm.agents.llm.tools import Tools, declared
from swarm.memory.errors import BudgetError
from swarm.memory.records import MAX_TEXT, AgentCall

Answer = TypeVar("Answer", bound=BaseModel)
Kept = TypeVar("Kept")

Finish = Callable[[str, str], None]
"""Records how an answered call ended: its outcome and a message."""

WRONG = "wrong"
"""Outcome of an answer that was understood and judged, and of which nothing was kept."""

READ_AHEAD = "read"
"""Outcome of a call that had the server read a prompt, and asked for no answer."""

MAX_TOOL_ROUNDS = 3
MIN_ROOM = 1_000
"""Characters that a question's data may have at least, however short a model's context is."""

MAX_ECHO_CHARS = 4_000
"""Characters of a rejected answer that the model is shown again."""


@dataclass(frozen=True)
class Used(Generic[Kept]):
    """What was kept of an answer, and why the rest was not; `judged` says that some of it was understood."""

    kept: Kept | None
    reasons: tuple[str, ...] = ()
    judged: bool = False


@dataclass(frozen=True)
class _Question:
    """What every call of one question has in common, with the messages so far."""

    prompt: Prompt
    schema: Schema | None
    output_tokens: int
    messages: list[Message]

    def add(self, role: str, content: str, **fields: Any) -> None:
        self.messages.append({"role": role, "content": content, **fields})


@dataclass
class Dialogue:
    """Talks to one endpoint on behalf of one campaign. Safe between threads.

    Without `tools` nothing may be looked up; once `closed` is set, no wait goes on.
    """

    client: Client
    budget: CallBudget
    tools: Tools | None
    settings: LlmSettings
    breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    closed: threading.Event = field(default_factory=threading.Event)
    tokens_cached: int = 0
    """Tokens of prompts so far that the server had read before, where it tells."""
    _rng: random.Random = field(default_factory=random.Random)
    _room: int = sys.maxsize

    @property
    def room(self) -> int:
        """Characters that a question's data may have: as the settings say, less where the model's context is short."""
        return min(self.settings.prompt_chars, self._room)

    def ask(
        self,
        prompt: Prompt,
        brief: str,
        answer: type[Answer],
        use: Callable[[Answer], Used[Kept]],
        schema: Schema | None = None,
    ) -> Used[Kept]:
        """Ask until something of the answer can be judged; one repair round when nothing of it can be.

        `brief` is what the role is to know: data, never instructions. `use` keeps of an answer what stands up to the
        data. `schema` is a narrower one than that of `answer`, for what makes sense at this moment.

        Raises:
            ContextError: the model's context is too short for the question; `room` is smaller now.
            CallError: the endpoint gave no answer.
            BudgetError: the budget does not cover another call.
        """
        held_to = strict_schema(answer) if schema is None else schema
        question = _question(prompt, brief, held_to, self.settings.output_tokens)
        used: Used[Kept] = Used(None, ("no answer",))
        for failed in ("invalid", "invalid_again"):
            reply, finish = self._answer(question)
            try:
                used = use(_read(reply, answer))
            except AnswerError as error:
                used = Used(None, (error.problem, *(["It was cut off: answer in fewer words."] if reply.cut else [])))
            except BaseException as error:
                finish("error", type(error).__name__)
                raise
            outcome = "ok" if used.kept is not None else WRONG if used.judged else failed
            finish(outcome, "; ".join(used.reasons))
            if outcome != failed:
                break
            question.add("assistant", reply.text[:MAX_ECHO_CHARS] or "(nothing)")
            question.add("user", _complaint(used.reasons, answer))
        return used

    def read(self, prompt: Prompt, brief: str) -> None:
        """Have a server that keeps what it has read read the beginning of later questions; asks for nothing.

        Raises:
            CallError: the endpoint gave no answer.
            BudgetError: the budget does not cover it.
        """
        self._call(_question(prompt, brief, None, 1), [])[1](READ_AHEAD, "")

    def _answer(self, question: _Question) -> tuple[ChatReply, Finish]:
        """The first reply that is not a tool call."""
        for step in range(MAX_TOOL_ROUNDS + 1):
            offered = declared() if self.tools is not None and step < MAX_TOOL_ROUNDS else []
            reply, finish = self._call(question, offered)
            if not reply.tools or self.tools is None or not offered:
                return reply, finish
            finish("tool", ", ".join(call.name for call in reply.tools))
            calls = [
                {"id": c.identity, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in reply.tools
            ]
            question.add("assistant", reply.text, tool_calls=calls)
            for call in reply.tools:
                question.add("tool", self.tools.use(call.name, call.arguments), tool_call_id=call.identity)
        raise CallError("the model asked for tools without end.", outcome="tools")

    def _call(self, question: _Question, tools: list[dict[str, Any]]) -> tuple[ChatReply, Finish]:
        """One answered call, after as many attempts as it takes and is allowed; each attempt is paid and recorded."""
        attempts = self.settings.llm_attempts
        for attempt in range(1, attempts + 1):
            self.breaker.enter()
            try:
                return self._attempt(question, tools)
            except ContextError:
                # It answered, and the next question may be shorter.
                self.breaker.succeeded()
                self._room = max(MIN_ROOM, min(self.room, len(question.messages[1]["content"])) // 2)
                raise
            except CallError as error:
                self.breaker.failed(error)
                jitter = self._rng.uniform(0, min(retry.MAX_DELAY, retry.BASE_DELAY * 2**attempt))
                wait = error.retry_after if error.retry_after is not None else jitter
                last = attempt == attempts or not error.retry or wait > retry.MAX_DELAY
                if last or self.closed.wait(wait):
                    raise
        raise CallError("no attempt is left.", outcome="attempts")

    def _attempt(self, question: _Question, tools: list[dict[str, Any]]) -> tuple[ChatReply, Finish]:
        record = self._reserve(question, tools)
        started = time.monotonic()
        try:
            reply = self.client.complete(
                question.messages,
                schema=question.schema,
                tools=tools,
                max_output=question.output_tokens,
                temperature=self.settings.temperature,
            )
        except CallError as error:
            record(None, time.monotonic() - started, error.outcome, error.problem, error.billed)
            raise
        except BaseException:
            record(None, time.monotonic() - started, "error", "", True)
            raise
        self.breaker.succeeded()
        self.tokens_cached += reply.tokens_cached
        return reply, lambda outcome, message: record(reply, reply.seconds, outcome, message, True)

    def _reserve(
        self, question: _Question, tools: list[dict[str, Any]]
    ) -> Callable[[ChatReply | None, float, str, str, bool], None]:
        """Reserve the most that a call can cost; returns what settles and records it."""
        prompt = question.prompt
        call = AgentCall(role=prompt.role, prompt_hash=prompt.digest, model=self.client.label[:200], outcome="budget")
        budget = self.budget
        try:
            extra = [question.schema, tools]
            hold = budget.reserve(prompt.role, question.messages, extra, question.output_tokens)
        except BudgetError as error:
            refused = call.model_copy(update={"message": error.problem[:MAX_TEXT]})
            budget.store.agent_calls.add(budget.campaign_id, refused)
            raise

        def record(reply: ChatReply | None, seconds: float, outcome: str, message: str, billed: bool) -> None:
            # What the server does not tell is counted as the most it can have been.
            tokens_in, tokens_out = (hold.tokens_in, hold.tokens_out) if billed else (0, 0)
            if reply is not None:
                tokens_in = hold.tokens_in if reply.tokens_in is None else reply.tokens_in
                tokens_out = hold.tokens_out if reply.tokens_out is None else reply.tokens_out
            cost = {"tokens_in": tokens_in, "tokens_out": tokens_out, "seconds": seconds}
            budget.settle(
                hold, call.model_copy(update={**cost, "outcome": outcome[:64], "message": message[:MAX_TEXT]})
            )
            if reply is not None and tokens_in + tokens_out > hold.tokens_in + hold.tokens_out:
                over = "the endpoint ignores the limit on its output: nothing more is asked, to keep the budget."
                self.breaker.failed(CallError(over, outcome="overrun", fatal=True))

        return record

    def close(self) -> None:
        """End all waits and drop the connections."""
        self.closed.set()
        self.client.close()


def _question(prompt: Prompt, brief: str, schema: Schema | None, output_tokens: int) -> _Question:
    question = _Question(prompt, schema, output_tokens, [])
    question.add("system", prompt.text)
    question.add("user", brief)
    return question


def _read(reply: ChatReply, answer: type[Answer]) -> Answer:
    """The answer in the text of a reply; where there is no text, in what it gives a tool, or in its thoughts."""
    given = next((call.arguments for call in reply.tools), "")
    return parsing.read(reply.text or given or reply.thoughts, answer)


def _complaint(reasons: tuple[str, ...], answer: type[BaseModel]) -> str:
    schema = json.dumps(strict_schema(answer), ensure_ascii=False)
    return (
        f"Nothing of that can be used: {'; '.join(reasons)[:1_500]}\n"
        f"Answer once more, with JSON of this schema and nothing else:\n{schema}"
    )
