"""Asks the LLM's roles in the background, keeps what stood up to the data, and never keeps the campaign waiting."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.briefing import brief
from swarm.agents.llm.dialogue import Dialogue, Used
from swarm.agents.llm.prompts import prompt
from swarm.agents.llm.retry import CallError, ContextError
from swarm.agents.llm.roles.base import Contribution, Role, roles
from swarm.agents.llm.screening import dominated
from swarm.agents.llm.telemetry import Telemetry
from swarm.kernels.errors import SwarmError
from swarm.memory.errors import BudgetError, StoreError
from swarm.memory.records import Finding, Proposal

MAX_WAITING = 4
"""Proposals of a role that wait per model, from which on no more are asked for."""

MIN_TRIALS = 8
"""Finished trials that the roles need to say anything."""

MAX_PAUSE = 64
"""Trials that a role whose answers are useless is left alone, at most."""

CLOSING_SECONDS = 2.0
"""Seconds that calls in flight get to be recorded when everything ends."""

PATIENCE_SHARE = 0.025
"""How much longer a campaign may become because its end waits for a local model."""

REST_SHARE = 0.4
"""How long a server of our own is left alone after an answer, of the time that it took: trials need the cores."""

MAX_REFUSED = 3
"""Refused ideas that a role is reminded of."""

MAX_REASON_CHARS = 160
POLL_SECONDS = 0.1
"""Seconds between two looks at whether the wait is still wanted."""


@dataclass
class RoleState:
    """One role's state: the trial number from which it may be asked again, and how often it was useless in a row."""

    due: int = 0
    misses: int = 0
    busy: bool = False
    asked: int = 0
    refused: tuple[str, ...] = ()
    """Why the latest ideas were refused."""


class RoleRunner:
    """Asks each role once in `every` trials, in daemon threads; what it hands over was checked against the data."""

    def __init__(self, dialogue: Dialogue, every: int = 10, telemetry: Telemetry | None = None) -> None:
        self._dialogue = dialogue
        self._every = every
        self._telemetry = telemetry
        self._roles = roles()
        self._states = {name: RoleState() for name in self._roles}
        self._changed = threading.Condition()
        self._waiting: dict[tuple[str, str], deque[Proposal]] = {}
        self._findings: dict[str, Finding] = {}
        self._text = ""
        self._over = False
        self._hurried = False
        self._began = time.monotonic()
        self._rests_until = 0.0
        self._threads: list[threading.Thread] = []

    @property
    def summary_wait(self) -> float:
        """Seconds that the end of a campaign may wait for the scribe: of a slow local one, a small share of all."""
        settings = self._dialogue.settings
        share = PATIENCE_SHARE * (time.monotonic() - self._began) if settings.is_local else math.inf
        return min(settings.llm_patience, share)

    @property
    def tokens_cached(self) -> int:
        """Tokens of prompts so far that the server had read before, where it tells."""
        return self._dialogue.tokens_cached

    def tick(self, context: ProposalContext) -> None:
        """Start what is due, at most so many calls at once; returns at once.

        Before anything is due, a server of our own reads the beginnings of prompts, which stay the same.
        """
        if len(context.history.completed) < MIN_TRIALS:
            if self._dialogue.settings.is_local and not self._threads:
                self._begin(self._read_ahead, context, "llm-reading")
            return
        with self._changed:
            # Whoever was asked least comes first: where one call at a time is all there is, everybody gets a turn.
            due = sorted(
                (name for name in self._roles if self._is_due(name, context)),
                key=lambda name: (self._states[name].asked, -self._roles[name].urgency),
            )
        for name in due:
            with self._changed:
                state = self._states[name]
                if self._over or not self._has_room() or state.busy:
                    continue
                if self._roles[name].choices(context, 1) is None:
                    state.due = context.number + self._every
                    continue
                state.busy = True
            self._start(name, context)

    def _has_room(self) -> bool:
        """Whether the endpoint may get one more question at the same time."""
        return (
            time.monotonic() >= self._rests_until
            and sum(state.busy for state in self._states.values()) < self._dialogue.settings.concurrency
        )

    def _is_due(self, name: str, context: ProposalContext) -> bool:
        state = self._states[name]
        if self._over or state.busy or context.number < state.due:
            return False
        mine = [len(proposals) for (role, _), proposals in self._waiting.items() if role == self._roles[name].author]
        return sum(mine) < MAX_WAITING * len(context.infos)

    def _start(self, name: str, context: ProposalContext) -> None:
        self._begin(partial(self._work, name), context, f"llm-{name}")

    def _begin(self, work: Callable[[ProposalContext], None], context: ProposalContext, called: str) -> None:
        # A snapshot: findings are worked out here, so that the thread shares no cache with the campaign.
        findings = tuple(context.findings())
        frozen = replace(context, findings=lambda: findings, history=replace(context.history))
        thread = threading.Thread(target=work, args=(frozen,), name=called, daemon=True)
        self._threads = [other for other in self._threads if other.is_alive()] + [thread]
        thread.start()

    def _read_ahead(self, context: ProposalContext) -> None:
        """Have the server read what every question of a role begins with; ends when the first real one is asked."""
        for role in sorted(self._roles.values(), key=lambda role: -role.urgency):
            if self._over or any(state.busy for state in self._states.values()):
                return
            text = brief(context, role.task(context), self._dialogue.room, role.reads)
            try:
                self._dialogue.read(prompt(role.name), text)
            except SwarmError:  # who asks next will meet it and say so
                return

    def _work(self, name: str, context: ProposalContext) -> None:
        state, began = self._states[name], time.monotonic()
        found: Contribution | None = None
        trouble = ""
        try:
            used = self.ask(name, context)
            found, trouble = used.kept, "; ".join(used.reasons) if used.kept is None else ""
        except (BudgetError, StoreError) as error:
            # A store that went away: the campaign itself will meet it and say so.
            trouble, self._over = error.problem, True
        except CallError as error:
            trouble, self._over = error.problem, self._over or error.fatal
        except Exception as error:  # a defect in one role must not reach the campaign
            trouble = f"{type(error).__name__}: {error}"[:200]
        finally:
            with self._changed:
                state.busy = False
                state.asked += 1
                if self._dialogue.settings.is_local:
                    now = time.monotonic()
                    self._rests_until = now + REST_SHARE * (now - began)
                state.misses = 0 if found is not None else state.misses + 1
                state.due = context.number + min(MAX_PAUSE, self._every * 2**state.misses // 2)
                if found is not None:
                    self._keep(found)
                self._changed.notify_all()
            if self._telemetry is not None and not self._dialogue.closed.is_set():
                self._telemetry.turn(name, self._dialogue.breaker.state, None if found is not None else trouble)

    def ask(self, name: str, context: ProposalContext) -> Used[Contribution]:
        """What stood up to the data of a role's answer, which is waited for.

        Where the model's context is too short for the question, a shorter one is asked.

        Raises:
            CallError: the endpoint gave no answer.
            BudgetError: the budget does not cover another call.
        """
        role, state = self._roles[name], self._states[name]
        used = self._answer(role, context, state.refused)
        state.refused = tuple(reason[:MAX_REASON_CHARS] for reason in (*used.reasons, *state.refused)[:MAX_REFUSED])
        return used

    def _answer(self, role: Role[Any], context: ProposalContext, refused: tuple[str, ...]) -> Used[Contribution]:
        schema = role.schema(context, self._dialogue.settings.output_tokens)
        task = {**role.task(context), **({"refused": refused} if refused else {})}
        while True:
            room = self._dialogue.room
            text = brief(context, task, room, role.reads)
            try:
                return self._dialogue.ask(
                    prompt(role.name),
                    text,
                    role.answer,
                    lambda answer: _screened(role, role.use(answer, context), context),
                    schema,
                )
            except ContextError:
                if self._dialogue.room == room:
                    raise

    def _keep(self, found: Contribution) -> None:
        for proposal in found.proposals:
            place = (proposal.proposer, proposal.spec.model)
            self._waiting.setdefault(place, deque(maxlen=2 * MAX_WAITING)).append(proposal)
        self._findings |= {finding.key: finding for finding in found.findings}
        self._text = found.text or self._text

    def samplers(self) -> dict[str, Callable[[ProposalContext], Proposal | None]]:
        """The roles that have proposed something, as samplers that are drawn by their record like the built-in ones."""
        with self._changed:
            names = sorted({name for name, _ in self._waiting})
        return {name: partial(self.take, name) for name in names}

    def take(self, name: str, context: ProposalContext) -> Proposal | None:
        """The next proposal of a role for the context's model that is still new."""
        with self._changed:
            proposals = self._waiting.get((name, context.model))
            while proposals:
                proposal = proposals.popleft()
                if context.is_new(proposal.spec):
                    return proposal
        return None

    def findings(self) -> Sequence[Finding]:
        """What roles have claimed and the data bore out at that time."""
        with self._changed:
            return tuple(self._findings.values())

    def text(self, context: ProposalContext, *, wait: float = 0.0) -> str:
        """The scribe's latest text; with `wait`, a fresh one is asked for and waited for that many seconds."""
        if wait > 0 and len(context.history.completed) >= MIN_TRIALS:
            self._await_scribe(context, time.monotonic() + wait)
        with self._changed:
            return self._text

    def _await_scribe(self, context: ProposalContext, deadline: float) -> None:
        state = self._states["scribe"]
        with self._changed:
            self._wait(lambda: not state.busy and self._has_room(), deadline)
            if self._over or self._hurried or state.busy or not self._has_room():
                return
            if self._roles["scribe"].choices(context, 1) is None:
                return
            state.busy = True
        self._start("scribe", context)
        with self._changed:
            self._wait(lambda: not state.busy, deadline)

    def _wait(self, until: Callable[[], bool], deadline: float) -> None:
        """Wait with the lock held, by polling: a signal handler can take no lock to end the wait."""
        while not (until() or self._over or self._hurried) and time.monotonic() < deadline:
            self._changed.wait(POLL_SECONDS)

    def settle(self) -> None:
        """Wait until no role is asked any more, for those to whom a trial costs no time."""
        with self._changed:
            self._wait(lambda: not any(state.busy for state in self._states.values()), math.inf)

    def hurry(self) -> None:
        """Wait for nothing from now on. May be called in a signal handler."""
        self._hurried = True

    def close(self) -> None:
        """Start nothing more, end all waits and drop the connections."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._dialogue.close()
        deadline = time.monotonic() + CLOSING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def _screened(role: Role[Any], used: Used[Contribution], context: ProposalContext) -> Used[Contribution]:
    """What was kept, without the proposals that need no trial, and the reasons why they do not."""
    if used.kept is None or not role.seeks_front:
        return used
    proposed = used.kept.proposals
    reasons = dict(zip(proposed, dominated([proposal.spec for proposal in proposed], context), strict=True))
    kept = replace(used.kept, proposals=tuple(proposal for proposal, why in reasons.items() if not why))
    told = (*used.reasons, *filter(None, reasons.values()))
    return Used(kept if kept != Contribution() else None, told, judged=True)
