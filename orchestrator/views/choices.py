"""The words that commands, tools and pages accept for a state or a status, and the one check of them."""

from __future__ import annotations

from collections.abc import Iterable

TRIAL_STATES = ("waiting", "running", "complete", "failed", "pruned", "quarantined")
FINDING_STATUSES = ("hypothesis", "confirmed", "refuted")
REVIEW_STATES = ("pending", "accepted", "rejected")


def check_choice(kind: str, value: str | None, known: Iterable[str]) -> None:
    """Refuse a word that is not known; None is no choice and passes.

    Args:
        kind: what is chosen, for the error.
        value: the word.
        known: the words that there are.

    Raises:
        UnknownNameError: with the words that there are.
    """
    from swarm.kernels.errors import UnknownNameError

    known = tuple(known)
    if value is not None and value not in known:
        raise UnknownNameError(kind, value, ", ".join(known))
