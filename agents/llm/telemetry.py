"""How the LLM did: the events that are stored beside its calls, and the report that is made of both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.dialogue import WRONG
from swarm.memory.errors import StoreError

if TYPE_CHECKING:
    from swarm.memory.records import AgentCall
    from swarm.memory.store import Store

FALL_BACK = "llm.fallback"
BREAKER = "llm.breaker"
KEPT = "ok"
USABLE = frozenset({KEPT, WRONG})
"""Outcomes of answers that were understood and judged."""

READ = USABLE | {"invalid", "invalid_again"}
"""Outcomes of answers that came."""

UNTOUCHED = "closed"


@dataclass
class Telemetry:
    """Writes down when a role's built-in code had to do without the LLM, and how the circuit breaker moves."""

    store: Store
    campaign_id: int
    _breaker: str = UNTOUCHED

    def turn(self, role: str, breaker: str, trouble: str | None) -> None:
        """A role's turn is over: `trouble` says why nothing of it could be used, None that something could."""
        try:
            with self.store.batch():
                if breaker != self._breaker:
                    what = {"state": breaker}
                    self.store.events.add(self.campaign_id, BREAKER, f"{breaker}: {trouble or 'it answers'}", what)
                if trouble is not None:
                    message = f"the built-in {role} goes on alone: {trouble}"
                    self.store.events.add(self.campaign_id, FALL_BACK, message, {"role": role})
        except StoreError:  # the campaign itself will meet it and say so
            return
        self._breaker = breaker


def report(store: Store, campaign_id: int) -> dict[str, Any] | None:
    """How the LLM of a campaign did, as data; None when none was ever asked.

    `usable` counts answers that could be judged on the data, `kept` those of which something stood up to it; `share` is
    the usable part of all answers that came. A call that only looked something up with a tool is no answer. Seconds
    are per answered call.
    """
    calls = store.agent_calls.list(campaign_id)
    falls = store.events.list(campaign_id, kind=FALL_BACK)
    if not calls and not falls:
        return None
    moves = store.events.list(campaign_id, kind=BREAKER)
    alone = Counter(str(event.data.get("role")) for event in falls)
    roles = sorted({call.role for call in calls} | set(alone))
    each = {role: _counts([call for call in calls if call.role == role], alone[role]) for role in roles}
    return {
        "model": calls[-1].model if calls else None,
        "breaker": str(moves[-1].data.get("state")) if moves else UNTOUCHED,
        **_counts(calls, len(falls)),
        "trouble": falls[-1].message if falls else "",
        "roles": each,
    }


def _counts(calls: Sequence[AgentCall], fall_backs: int) -> dict[str, Any]:
    answers = [call for call in calls if call.outcome in READ]
    usable = sum(call.outcome in USABLE for call in answers)
    came = [call.seconds for call in calls if call.outcome in READ or call.outcome == "tool"]
    return {
        "calls": len(calls),
        "answers": len(answers),
        "usable": usable,
        "kept": sum(call.outcome == KEPT for call in answers),
        "share": usable / len(answers) if answers else None,
        "fall_backs": fall_backs,
        "tokens_in": sum(call.tokens_in for call in calls),
        "tokens_out": sum(call.tokens_out for call in calls),
        "usd": sum(call.usd for call in calls),
        "seconds": sum(came) / len(came) if came else None,
        "outcomes": dict(sorted(Counter(call.outcome for call in calls).items())),
    }


def in_words(state: dict[str, Any]) -> str:
    """The report, or that of one role, in one line."""
    share = "" if state["share"] is None else f" ({state['share']:.0%})"
    parts = [
        f"{state['calls']} calls",
        f"{state['usable']} of {state['answers']} answers usable{share}, {state['kept']} kept",
        f"{state['tokens_in'] + state['tokens_out']} tokens",
        f"{state['usd']:.4f} USD",
    ]
    if state["seconds"] is not None:
        parts.append(f"{state['seconds']:.1f} s per answer")
    if state["fall_backs"]:
        parts.append(f"{state['fall_backs']} times the built-in code went on alone")
    return ", ".join(parts) + (f"; breaker {state['breaker']}" if "breaker" in state else "")
