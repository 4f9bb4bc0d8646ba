"""What other processes do to a store in tests: spawned ones must be able to import it."""

from __future__ import annotations

import hashlib
import os
import random
import time
import traceback
from collections.abc import Callable
from typing import Any

from samples import complete, measurement, proposal

from swarm.memory.errors import BudgetError
from swarm.memory.records import Proposal
from swarm.memory.store import Store

NOBODY = 65534


def open_and_add(place: str, start: Any, results: Any) -> None:
    start.wait()
    with Store.open(place, create=True) as store:
        results.put(store.events.add(None, "opened"))


def as_nobody(action: Callable[[], str]) -> str:
    """What `action` returns in a forked process without privileges (a fork: nobody may not read our interpreter)."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            answer = action()
        except BaseException:
            answer = traceback.format_exc()
        os.write(writer, answer.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer


def claim_all(place: str, ids: list[int], seed: int, start: Any, claimed: Any) -> None:
    """Try to claim every trial, in an order of one's own; report those that were got."""
    random.Random(seed).shuffle(ids)
    with Store.open(place) as store:
        start.wait()
        got = [trial for trial in ids if store.queue.claim(trial, f"process {seed}", ttl=3600) is not None]
    claimed.put(got)


def drive(place: str, campaign_id: int, owner: str, lag: int, start: Any) -> None:
    """Be one of several drivers of a campaign until its budget is spent and every trial is over."""
    with Store.open(place) as store:
        start.wait()
        exhausted = False
        while True:
            turn = None
            if not exhausted:
                try:
                    turn = store.proposal_lock.claim(campaign_id, owner, lag=lag)
                except BudgetError:
                    exhausted = True
            if turn is not None:
                store.propose(campaign_id, turn.number, history_proposal(store, campaign_id, turn.number, lag), turn)
            lease = store.queue.claim_next(campaign_id, owner)
            if lease is not None:
                complete(store, lease, measurement(kld=1 / (1 + lease.number)))
            elif exhausted and not store.trials.list(campaign_id, state=("waiting", "running"), limit=1):
                return
            elif turn is None:
                time.sleep(0.002)


def history_proposal(store: Store, campaign_id: int, number: int, lag: int) -> Proposal:
    """A proposal that is a function of its number and of the results that the lag lets it see."""
    visible = store.trials.list(campaign_id, upto=number - lag - 1) if number > lag else []
    digest = hashlib.sha256(repr([(t.number, t.spec.seed, t.metrics["kld"].value) for t in visible]).encode())
    return proposal(seed=int(digest.hexdigest()[:12], 16) * 1000 + number)


def write_batches(place: str, campaign_id: int, journal: str, start: Any) -> None:
    """Complete trials in batches and note in a file which ones the store has confirmed; meant to be killed."""
    file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    with Store.open(place) as store:
        start.set()
        while True:
            leases = [store.queue.claim_next(campaign_id, f"writer {os.getpid()}", ttl=3600) for _ in range(5)]
            if None in leases and not any(leases):
                return
            with store.batch():
                for lease in filter(None, leases):
                    complete(store, lease, measurement(kld=lease.number + 1.0))
            os.write(file, "".join(f"{lease.trial_id}\n" for lease in filter(None, leases)).encode())
