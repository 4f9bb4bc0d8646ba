"""Everything about one trial, finding, proposal or summary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from swarm.orchestrator.views.summaries import shown_summary

if TYPE_CHECKING:
    from swarm.memory.store import Store

KINDS = ("trial", "finding", "proposal", "summary")


def shown(store: Store, kind: str, identity: int) -> dict[str, Any]:
    """A thing in full as JSON; the numbers of a summary come with the trials that they are of.

    Args:
        store: where it is.
        kind: one of `KINDS`.
        identity: its number.

    Raises:
        UnknownNameError: there is no such thing.
    """
    if kind == "summary":
        return dict(shown_summary(store, identity))
    get = {"trial": store.trials.get, "finding": store.findings.get, "proposal": store.proposals.get}[kind]
    return get(identity).model_dump(mode="json")
