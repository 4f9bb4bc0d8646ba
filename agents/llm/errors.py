"""What can go wrong with a call, as recorded outcomes."""

from __future__ import annotations

from swarm.kernels.errors import SwarmError


class CallError(SwarmError):
    """A call that gave no answer.

    Attributes:
        outcome: short word that is recorded with the call.
        retry: whether the same call may work a moment later.
        fatal: whether no later call can work in this campaign.
        retry_after: seconds that the server asked to wait.
        billed: whether the tokens may have been counted although no answer came.
    """

    def __init__(
        self,
        problem: str,
        remedy: str = "",
        *,
        outcome: str = "error",
        retry: bool = False,
        fatal: bool = False,
        retry_after: float | None = None,
        billed: bool = False,
    ) -> None:
        super().__init__(problem, remedy)
        self.outcome = outcome
        self.retry = retry
        self.fatal = fatal
        self.retry_after = retry_after
        self.billed = billed


class BreakerOpenError(CallError):
    """No call is made: the endpoint failed too often and is left alone for a while."""


class AnswerError(SwarmError):
    """An answer that cannot be read as what was asked for."""
