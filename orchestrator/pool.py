"""Runs trials on Ray workers: one actor per core, several per GPU, each with a model in memory.

A worker that dies or hangs costs the trial it had; another takes its place.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from swarm.experiments.environment import code_version
from swarm.experiments.spec import Failure, Measurement, TrialSpec
from swarm.kernels.errors import SwarmError
from swarm.orchestrator.affinity import AffinityQueue
from swarm.orchestrator.cluster import Cluster, resources
from swarm.orchestrator.preparation import Preparations, needs, with_preparation
from swarm.orchestrator.worker import Greeting, Prepared, WorkerPlan
from swarm.orchestrator.worker_handle import WorkerHandle, why_lost

START_ATTEMPTS = 8
"""Starts in a row that may fail: something else can end workers as they come up, a full machine or a lost node."""

Ending = tuple[int, Measurement | Failure]
"""The id of a trial, and what came of it."""


class PoolError(SwarmError):
    """The workers cannot be brought up."""


class Pool:
    """Runs trials on workers: `submit` hands one in, `collect` waits for what came of them.

    Args:
        plan: what every worker is told; its device says on which nodes workers can run.
        workers: how many; None for as many as the cluster at `address` has room for.
        memory: bytes that a worker takes of a node of a cluster; 0 leaves them out of account.
        timeout: seconds that one trial may take.
        address: an existing Ray cluster; None starts one on this machine.
        on_ready: called in `collect` when Ray is up.
    """

    def __init__(
        self,
        plan: WorkerPlan,
        workers: int | None,
        *,
        memory: float = 0.0,
        timeout: float = 300.0,
        address: str | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._timeout = timeout
        self._waiting = AffinityQueue()
        self._preparations = Preparations()
        self._inbox: queue.SimpleQueue[tuple[WorkerHandle | None, int, Any]] = queue.SimpleQueue()
        self._members = self._handles(workers or 0)
        wanted = resources(plan.device, memory if address is not None else 0.0)
        self._cluster = Cluster(wanted, workers, address=address, on_ready=self.wake)
        self._counted = workers is not None
        self._on_ready = on_ready
        self._shared = address is not None
        self._ready = False
        self.restarts = 0
        """How many workers were replaced."""
        self.switches = 0
        """How often a worker had to put another model into its memory."""

    def start(self) -> None:
        """Bring Ray and the workers up in the background; trials may be handed in at once."""
        self._cluster.start()

    @property
    def workers(self) -> int:
        """How many workers there are when all are up; waits for a cluster that is to decide that.

        Raises:
            PoolError: there is no cluster, or no node of it has what a worker needs.
        """
        if not self._counted:
            self._cluster.settle()
            self._raise_error()
            self._count()
        return len(self._members)

    @property
    def up(self) -> int:
        """How many workers are up."""
        return sum(member.up for member in self._members)

    @property
    def load(self) -> int:
        """Trials that wait or run."""
        return len(self._waiting) + self.running

    @property
    def running(self) -> int:
        """Trials that run."""
        return sum(member.trial_id is not None for member in self._members)

    def submit(self, trial_id: int, spec: TrialSpec) -> None:
        """Hand in a trial.

        Raises:
            PoolError: it is for another device than these workers compute on.
        """
        if spec.device != self._plan.device:
            raise PoolError(
                f"a trial for {spec.device} was handed to workers on {self._plan.device}.",
                f"Go on with the campaign by `swarm resume` with --device {spec.device}.",
            )
        self._waiting.put(trial_id, spec, needs(spec))
        self._dispatch()

    def prepare_ahead(self, specs: Sequence[TrialSpec]) -> None:
        """Trials like these will come: workers with nothing to do make what those share, half of them at a time."""
        self._preparations.expect(specs)

    def wake(self) -> None:
        """Make `collect` return; safe in signal handlers and other threads."""
        self._inbox.put((None, 0, None))

    def collect(self, wait: float) -> list[Ending]:
        """What came of trials: all there is, or the first within `wait` seconds; empty when woken or out of time.

        Raises:
            PoolError: no worker can be brought up.
        """
        self._check_cluster()
        ended = self._overdue()
        deadline = min((member.deadline for member in self._members), default=inf)
        timeout = max(0.0, min(wait, deadline - time.monotonic()))
        block = not ended
        while True:
            try:
                member, generation, future = self._inbox.get(block, timeout)
            except queue.Empty:
                break
            block = False
            if member is not None and generation == member.generation:
                ended += self._receive(member, future)
        self._check_cluster()
        self._dispatch()
        return ended or self._overdue()

    def withdraw(self) -> list[int]:
        """Give up the trials that have not begun; their ids."""
        return self._waiting.drain()

    def close(self, timeout: float = 3.0) -> None:
        """Let go of everything at once; running trials are lost. Returns within `timeout` seconds or so."""
        for member in self._members:
            member.generation += 1
        self._waiting.drain()
        self._cluster.stop(timeout)

    def _check_cluster(self) -> None:
        if self._ready:
            return
        self._raise_error()
        if self._cluster.ready:
            self._ready = True
            self._on_ready()
            self._count()
            for member in self._members:
                member.start(self._plan, self._cluster)

    def _raise_error(self) -> None:
        error = (self._cluster.error or "").rstrip(".")
        if error and self._shared:
            raise PoolError(
                f"the Ray cluster does not let us in: {error}.",
                "Check the address; if the cluster wants a token, put the head node's ~/.ray/auth_token here.",
            )
        if error:
            raise PoolError(f"Ray did not start: {error}.", "See `swarm doctor`.")

    def _count(self) -> None:
        """Have as many workers as the cluster has room for, where nobody said how many."""
        if self._counted:
            return
        if self._cluster.room == 0:
            raise PoolError(
                f"no node of the Ray cluster offers what a worker on {self._plan.device} needs "
                f"({', '.join(f'{amount:g} {name}' for name, amount in self._cluster.wanted.items())}).",
                "Start one by `swarm node` on a machine that has it, or give --workers to wait for one.",
            )
        self._members = self._handles(self._cluster.room)
        self._counted = True

    def _handles(self, count: int) -> list[WorkerHandle]:
        return [WorkerHandle(self._inbox) for _ in range(count)]

    def _dispatch(self) -> None:
        for member in self._members:
            if not (len(self._waiting) or self._preparations.expecting):
                return
            if not member.up or member.trial_id is not None or member.making:
                continue
            others = frozenset(other.resident for other in self._members if other is not member and other.resident)
            making = frozenset(other.making for other in self._members if other.making and other.node == member.node)
            taken = self._waiting.take(member.resident, others, making)
            if taken is not None:
                self._run(member, *taken)
            else:
                self._make_ahead(member, making)

    def _run(self, member: WorkerHandle, trial_id: int, spec: TrialSpec) -> None:
        member.trial_id = trial_id
        self.switches += member.resident not in (None, spec.model)
        self._make(member, spec)
        member.expect(member.actor.run.remote(spec))

    def _make(self, member: WorkerHandle, spec: TrialSpec) -> None:
        """Have a worker make what a trial shares with others, where its node may not have it yet."""
        member.resident = spec.model
        member.deadline = time.monotonic() + self._timeout
        member.making = self._preparations.missing(member.node, spec)
        if member.making:
            member.expect(member.actor.prepare.remote(spec))

    def _make_ahead(self, member: WorkerHandle, making: frozenset[str]) -> None:
        """Have a worker that no trial waits for make what later ones will share."""
        if 2 * (1 + sum(bool(other.making) for other in self._members if other.trial_id is None)) > len(self._members):
            return
        spec = self._preparations.ahead(member.node, making)
        if spec is not None:
            self._make(member, spec)

    def _receive(self, member: WorkerHandle, future: Any) -> list[Ending]:
        error = future.exception()
        if error is not None:
            return self._replace(member, why_lost(error))
        answer = future.result()
        if isinstance(answer, Prepared):
            self._preparations.made(member.node, member.making)
            member.making = ""
            if member.trial_id is None:
                member.deadline = inf
            else:
                member.preparing_took = answer.seconds
            return []
        member.deadline = inf
        if isinstance(answer, Greeting):
            self._welcome(member, answer)
            return []
        trial_id, member.trial_id = member.trial_id, None
        took, member.preparing_took = member.preparing_took, 0.0
        return [] if trial_id is None else [(trial_id, with_preparation(answer, took))]

    def _welcome(self, member: WorkerHandle, greeting: Greeting) -> None:
        if self._shared and greeting.code_version != code_version():
            raise PoolError(
                f"the worker on {greeting.node} runs another version of swarm.",
                "Install the same kv-swarm on every node of the cluster.",
            )
        if greeting.lacks:
            raise PoolError(
                f"the worker on {greeting.node} cannot run the trials: {greeting.lacks}",
                "Make every node that advertises this back-end alike, or leave it out of the cluster.",
            )
        member.up, member.failed_starts, member.node = True, 0, greeting.node

    def _overdue(self) -> list[Ending]:
        now = time.monotonic()
        message = f"no result within {self._timeout:g} s; the worker was replaced."
        failure = Failure(kind="timeout", message=message, seconds=self._timeout)
        late = [member for member in self._members if member.deadline <= now]
        return [ending for member in late for ending in self._replace(member, failure)]

    def _replace(self, member: WorkerHandle, failure: Failure) -> list[Ending]:
        """Replace the process of a worker; its trial ends with this failure."""
        trial_id, started = member.trial_id, member.up
        if member.making and trial_id is None:
            self._preparations.give_up(member.making)
        member.end()
        if started:
            self.restarts += 1
            member.start(self._plan, self._cluster)
        else:
            self._retry_start(member, failure.message)
        return [] if trial_id is None else [(trial_id, failure)]

    def _retry_start(self, member: WorkerHandle, message: str) -> None:
        """Try again to start a worker that did not come up; do without it when others work."""
        member.failed_starts += 1
        if member.failed_starts < START_ATTEMPTS:
            member.start(self._plan, self._cluster)
        elif len(self._members) > 1:
            self._members.remove(member)
        else:
            raise PoolError(f"no worker comes up: {message}", "See `swarm doctor`; a cluster needs a free CPU or GPU.")
