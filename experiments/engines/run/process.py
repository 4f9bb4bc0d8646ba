"""An engine as a process of ours on loopback: started, waited for, measured for memory, and ended whatever happens."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

from swarm.experiments.engines.base import Host
from swarm.experiments.engines.probe.endpoint import Endpoint
from swarm.experiments.engines.probe.http_host import HttpHost
from swarm.experiments.engines.run import guard
from swarm.experiments.engines.run.flags import FlagValue
from swarm.experiments.engines.run.startable import Launch, RefusedError, StartableEngine
from swarm.experiments.environment import cores
from swarm.kernels.errors import OutOfMemoryError

LOOPBACK = "127.0.0.1"
MAX_START_SECONDS = 600.0
"""Seconds that an engine may take to load its model; vLLM takes minutes on few cores."""
MAX_END_SECONDS = guard.MAX_GRACE_SECONDS + 2.0
MAX_DYING_SECONDS = 0.5
"""Seconds between an answer that breaks off and the end of the process."""
MAX_TAIL_BYTES = 20_000
MAX_REASON_CHARS = 200
PORT_ATTEMPTS = 3
NO_MEMORY = ("out of memory", "failed to allocate", "unable to allocate", "cannot allocate", "bad_alloc")
PORT_TAKEN = ("address already in use", "couldn't bind", "failed to bind", "error while attempting to bind")
HARMLESS = re.compile(r"[\d.]+ [IWD] ")
"""How llama.cpp begins lines that are no errors."""
TROUBLE = ("error", "fail", "invalid", "unknown", "unsupported", "refus", "unrecognized")


class RunningEngine:
    """An engine that answers. `endpoint` speaks to it, `host` answers plain requests, `model` is what it calls it."""

    def __init__(self, engine: StartableEngine, launch: Launch, process: subprocess.Popen[bytes]) -> None:
        self.engine = engine
        self.launch = launch
        self.host: Host = HttpHost(f"http://{LOOPBACK}:{launch.port}/v1", "")
        self.model = ""
        self.start_seconds = 0.0
        self._process = process

    @property
    def endpoint(self) -> Endpoint:
        """The same engine as `swarm probe` sees it."""
        return Endpoint(f"http://{LOOPBACK}:{self.launch.port}/v1", self.model)

    @property
    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def has_ended(self, seconds: float) -> bool:
        """Whether it ends within so many seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return not self.alive

    def memory(self) -> int:
        """The most bytes of memory that its processes have held at once, each for itself; 0 where nothing tells."""
        leader = self._process.pid
        return sum(size for pid, size in _members(leader) if pid != leader)


@contextmanager
def running(
    engine: StartableEngine,
    model: str,
    flags: Mapping[str, FlagValue],
    *,
    context: int,
    clients: int = 1,
    timeout: float = MAX_START_SECONDS,
) -> Iterator[RunningEngine]:
    """Start an engine with a model and flags, wait until it answers, and end it when the block is left.

    Args:
        engine: which one.
        model: a model's name, file or folder.
        flags: flags that differ from what the engine takes by itself.
        context: tokens that every client can have.
        clients: how many clients at once.
        timeout: seconds that it may take to come up.

    Raises:
        MissingEngineError: it is not installed.
        RefusedError: it does not come up, with what it said last.
        OutOfMemoryError: it ran out of memory, here or in the block.
    """
    launch = Launch(engine.weights(model), 0, context, clients, cores(), dict(flags))
    with contextlib.ExitStack() as stack:
        for attempt in range(PORT_ATTEMPTS):
            launch = replace(launch, port=free_port())
            log = stack.enter_context(tempfile.TemporaryFile())
            try:
                started = stack.enter_context(_process(engine, launch, log))
                _wait(started, log, timeout)
                break
            except RefusedError:
                if attempt == PORT_ATTEMPTS - 1 or not _says(log, PORT_TAKEN):
                    raise
        try:
            yield started
        except Exception:
            if started.has_ended(MAX_DYING_SECONDS):  # what the block saw is but the end of it
                raise _death(started, log) from None
            raise


@contextmanager
def _process(engine: StartableEngine, launch: Launch, log: IO[bytes]) -> Iterator[RunningEngine]:
    command = [*engine.executable(), *engine.arguments(launch)]
    # Ray sets OMP_NUM_THREADS to 1 in its workers; the engine is told its cores otherwise.
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment = {**inherited, **engine.environment(launch)}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(Path(guard.__file__)), *command],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        start_new_session=True,
    )
    try:
        yield RunningEngine(engine, launch, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the guard ends the group
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(MAX_END_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait(started: RunningEngine, log: IO[bytes], timeout: float) -> None:
    begun = time.monotonic()
    while not started.engine.is_ready(started.host):
        if not started.alive:
            raise _death(started, log)
        if time.monotonic() - begun > timeout:
            raise RefusedError(
                f"{started.engine.title} did not answer within {timeout:g} s{_flags(started)}.", "Try a smaller model."
            )
        time.sleep(0.05)
    started.model = started.engine.load(started.host, started.launch)
    started.start_seconds = time.monotonic() - begun
    if not started.alive:  # somebody else answers at this port
        raise _death(started, log)


def _death(started: RunningEngine, log: IO[bytes]) -> RefusedError | OutOfMemoryError:
    """Why an engine has ended, from its exit status and its log."""
    status, title = started._process.wait(), started.engine.title
    if status == 128 + signal.SIGKILL or _says(log, NO_MEMORY):
        return OutOfMemoryError(f"{title} ran out of memory{_flags(started)}.", "Shorten the context.")
    lines = _tail(log).splitlines()
    telling = [line for line in lines if any(word in line.lower() for word in TROUBLE) and not HARMLESS.match(line)]
    said = " ".join((telling[:1] or lines[-1:] or ["without a word"])[0].split())
    return RefusedError(
        f"{title} ended with status {status}{_flags(started)}: {said[:MAX_REASON_CHARS].rstrip('.')}.",
        "Change the flags, or update the engine.",
    )


def _flags(started: RunningEngine) -> str:
    chosen = " ".join(started.launch.options())
    return f" with {chosen}" if chosen else ""


def _tail(log: IO[bytes]) -> str:
    size = log.seek(0, os.SEEK_END)
    log.seek(max(0, size - MAX_TAIL_BYTES))
    return log.read().decode("utf-8", "replace")


def _says(log: IO[bytes], phrases: tuple[str, ...]) -> bool:
    text = _tail(log).lower()
    return any(phrase in text for phrase in phrases)


def free_port() -> int:
    """A port of loopback that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


def _members(group: int) -> Iterator[tuple[int, int]]:
    """Processes of a group with bytes of memory: the most that each has held on Linux, else what it holds now."""
    if sys.platform != "linux":
        table = subprocess.run(["ps", "-axo", "pid=,pgid=,rss="], capture_output=True, text=True, check=False)  # noqa: S607
        for pid, of, kib in (line.split() for line in table.stdout.splitlines()):
            if int(of) == group:
                yield int(pid), int(kib) * 1024
        return
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, ValueError):
            if entry.name.isdecimal() and int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                peak = next(line for line in (entry / "status").read_text().splitlines() if line.startswith("VmHWM"))
                yield int(entry.name), int(peak.split()[1]) * 1024
