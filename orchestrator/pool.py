"""Workers on Ray: one actor per core or GPU, each with a resident model. Knows trials, not campaigns or stores.

A worker that dies or hangs costs the trial it had; another takes its place.
"""

from __future__ import annotations

import queue
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from swarm.experiments.spec import code_version
from swarm.kernels.errors import SwarmError
from swarm.orchestrator import places
from swarm.orchestrator.affinity import AffinityQueue
from swarm.orchestrator.cluster import Cluster
from swarm.orchestrator.worker import Greeting, Outcome, Plan

if TYPE_CHECKING:
    from swarm.experiments.spec import TrialSpec

START_TIMEOUT = 180.0
START_ATTEMPTS = 8
"""Starts in a row that may fail: something else can end workers as they come up, a full machine or a lost node."""
LOST = "lost"
"""Outcome of a trial that never ended through no fault of its own, because its node went away."""
EVICTED = "evicted"
"""Outcome of a trial whose worker Ray ended because its machine, not necessarily the trial, ran out of memory."""


class PoolError(SwarmError):
    """The workers cannot be brought up."""


@dataclass(frozen=True)
class Result:
    """The end of a trial that was handed to the pool under `key`, and which worker had it."""

    key: int
    outcome: Outcome
    worker: int


@dataclass(frozen=True)
class _Ticket:
    key: int
    spec: TrialSpec


@dataclass
class _Seat:
    """The place of one worker; `generation` tells messages of a replaced worker from those of its successor."""

    index: int
    actor: Any = None
    generation: int = 0
    up: bool = False
    failures: int = 0
    resident: str | None = None
    ticket: _Ticket | None = None
    deadline: float = field(default=float("inf"))


class Pool:
    """Runs trials on workers; `submit` hands one in, `collect` waits for ends.

    Args:
        plan: what every worker is told; its device says on which nodes workers can run.
        workers: how many; None for as many as the cluster at `address` has room for.
        memory: bytes that a worker takes of a cluster's node; 0 leaves them out of account.
        timeout: seconds that one trial may take.
        address: an existing Ray cluster; None starts one on this machine.
        on_ready: called in `collect` when Ray is up.
    """

    def __init__(
        self,
        plan: Plan,
        workers: int | None,
        *,
        memory: float = 0.0,
        timeout: float = 300.0,
        address: str | None = None,
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._plan = plan
        self._timeout = timeout
        self._wanted = places.asks(plan.device, memory if address is not None else 0.0)
        self._waiting: AffinityQueue[_Ticket] = AffinityQueue()
        self._seats = [_Seat(index) for index in range(workers or 0)]
        self._inbox: queue.SimpleQueue[tuple[_Seat | None, int, Any]] = queue.SimpleQueue()
        self._cluster = Cluster(self._wanted, workers, address=address, on_ready=self.wake)
        self._counted = workers is not None
        self._on_ready = on_ready
        self._shared = address is not None
        self._ready = False
        self.restarts = 0

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
        return len(self._seats)

    @property
    def up(self) -> int:
        """How many workers are up."""
        return sum(seat.up for seat in self._seats)

    @property
    def load(self) -> int:
        """Trials that wait or run."""
        return len(self._waiting) + sum(seat.ticket is not None for seat in self._seats)

    @property
    def running(self) -> int:
        """Trials that run."""
        return sum(seat.ticket is not None for seat in self._seats)

    def submit(self, key: int, spec: TrialSpec) -> None:
        """Hand in a trial under a unique key.

        Raises:
            PoolError: it is for another device than these workers compute on.
        """
        if spec.device != self._plan.device:
            raise PoolError(
                f"a trial for {spec.device} was handed to workers on {self._plan.device}.",
                f"Go on with the campaign by `swarm resume` with --device {spec.device}.",
            )
        self._waiting.put(key, spec.model, _Ticket(key, spec))
        self._dispatch()

    def wake(self) -> None:
        """Make `collect` return; safe in signal handlers and other threads."""
        self._inbox.put((None, 0, None))

    def collect(self, wait: float) -> list[Result]:
        """Ends of trials: those there are, or the first within `wait` seconds; empty when woken or out of time.

        Raises:
            PoolError: no worker can be brought up.
        """
        self._check_cluster()
        results = self._overdue()
        patience = max(0.0, min(wait, self._next_deadline() - time.monotonic()))
        block = not results
        while True:
            try:
                seat, generation, future = self._inbox.get(block, patience)
            except queue.Empty:
                break
            block = False
            if seat is not None and generation == seat.generation:
                results += self._receive(seat, future)
        self._check_cluster()
        self._dispatch()
        return results or self._overdue()

    def withdraw(self) -> list[int]:
        """Give up the trials that have not begun; their keys."""
        return [ticket.key for ticket in self._waiting.drain()]

    def close(self, patience: float = 3.0) -> None:
        """Let go of everything at once; running trials are lost. Returns within `patience` seconds or so."""
        for seat in self._seats:
            seat.generation += 1
        self._waiting.drain()
        self._cluster.stop(patience)

    def _check_cluster(self) -> None:
        if self._ready:
            return
        self._raise_error()
        if self._cluster.ready:
            self._ready = True
            self._on_ready()
            self._count()
            for seat in self._seats:
                self._engage(seat)

    def _raise_error(self) -> None:
        if self._cluster.error is not None:
            raise PoolError(*_why_no_ray(self._cluster.error, shared=self._shared))

    def _count(self) -> None:
        """Make the seats that the cluster has room for, where nobody said how many."""
        if self._counted:
            return
        if self._cluster.room == 0:
            raise PoolError(
                f"no node of the Ray cluster offers what a worker on {self._plan.device} needs "
                f"({', '.join(f'{amount:g} {name}' for name, amount in self._wanted.items())}).",
                "Start one by `swarm node` on a machine that has it, or give --workers to wait for one.",
            )
        self._seats = [_Seat(index) for index in range(self._cluster.room)]
        self._counted = True

    def _engage(self, seat: _Seat) -> None:
        """Put a new worker on the seat."""
        import ray

        seat.generation += 1
        seat.up, seat.resident, seat.ticket = False, None, None
        seat.deadline = time.monotonic() + START_TIMEOUT
        seat.actor = (
            ray.remote(self._cluster.actor_class)
            .options(**places.options(self._wanted), max_restarts=0, max_task_retries=0)
            .remote(self._plan)
        )
        self._watch(seat, seat.actor.greet.remote())

    def _watch(self, seat: _Seat, reference: Any) -> None:
        generation = seat.generation
        reference.future().add_done_callback(lambda future: self._inbox.put((seat, generation, future)))

    def _dispatch(self) -> None:
        for seat in self._seats:
            if not seat.up or seat.ticket is not None:
                continue
            others = frozenset(other.resident for other in self._seats if other is not seat and other.resident)
            ticket = self._waiting.take(seat.resident, others)
            if ticket is None:
                return
            seat.ticket, seat.resident = ticket, ticket.spec.model
            seat.deadline = time.monotonic() + self._timeout
            self._watch(seat, seat.actor.run.remote(ticket.spec))

    def _receive(self, seat: _Seat, future: Any) -> list[Result]:
        error = future.exception()
        if error is not None:
            return self._lost(seat, *_why_lost(error))
        answer = future.result()
        seat.deadline = float("inf")
        if isinstance(answer, Greeting):
            self._welcome(seat, answer)
            return []
        ticket, seat.ticket = seat.ticket, None
        return [Result(ticket.key, answer, seat.index)] if ticket is not None else []

    def _welcome(self, seat: _Seat, greeting: Greeting) -> None:
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
        seat.up, seat.failures = True, 0

    def _overdue(self) -> list[Result]:
        now = time.monotonic()
        late = [seat for seat in self._seats if seat.deadline <= now]
        return [
            result
            for seat in late
            for result in self._lost(seat, "timeout", f"no result within {self._timeout:g} s; the worker was replaced.")
        ]

    def _lost(self, seat: _Seat, kind: str, message: str) -> list[Result]:
        """Replace the worker of a seat; its trial ends with this outcome."""
        import ray

        ticket, started = seat.ticket, seat.up
        ray.kill(seat.actor, no_restart=True)
        seat.up, seat.ticket = False, None
        if started:
            self.restarts += 1
            self._engage(seat)
        else:
            self._retry_start(seat, message)
        if ticket is None:
            return []
        seconds = self._timeout if kind == "timeout" else 0.0
        return [Result(ticket.key, Outcome(kind, None, message, seconds), seat.index)]

    def _retry_start(self, seat: _Seat, message: str) -> None:
        """Try again to fill a seat whose worker did not come up; give the seat up when others work."""
        seat.failures += 1
        if seat.failures < START_ATTEMPTS:
            self._engage(seat)
        elif len(self._seats) > 1:
            self._seats.remove(seat)
        else:
            raise PoolError(f"no worker comes up: {message}", "See `swarm doctor`; a cluster needs a free CPU or GPU.")

    def _next_deadline(self) -> float:
        return min((seat.deadline for seat in self._seats), default=float("inf"))


def _why_no_ray(error: str, *, shared: bool) -> tuple[str, str]:
    if shared:
        return (
            f"the Ray cluster does not let us in: {error.rstrip('.')}.",
            "Check the address; if the cluster wants a token, put the head node's ~/.ray/auth_token here.",
        )
    return f"Ray did not start: {error.rstrip('.')}.", "See `swarm doctor`."


def _why_lost(error: BaseException) -> tuple[str, str]:
    """The outcome of a trial whose worker is gone, and the cause in a sentence."""
    text = " ".join(str(error).split())
    match = re.search(r"Worker exit type: (\w+)", text)
    kind = match.group(1) if match else type(error).__name__
    if kind in ("NODE_OUT_OF_MEMORY", "OutOfMemoryError"):
        return EVICTED, "Ray ended the worker because its machine ran out of memory."
    if "node" in text and "died" in text and match is None:
        return LOST, f"the node of the worker was lost: {text[:300]}"
    return "crash", f"the worker process died ({kind}): {_detail(text)}"


def _detail(text: str) -> str:
    match = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", text)
    return (match.group(1) if match else text)[:300]
