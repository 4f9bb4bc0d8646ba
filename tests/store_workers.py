"""What other processes do to a store in tests: spawned ones must be able to import it."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable
from typing import Any

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
        except BaseException:  # noqa: BLE001
            answer = traceback.format_exc()
        os.write(writer, answer.encode()[:60_000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        answer = pipe.read()
    os.waitpid(child, 0)
    return answer
