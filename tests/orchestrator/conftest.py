"""One Ray pool for all tests of the orchestrator, stores on disk, and the command line as a process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from swarm.agents.history import History
from swarm.memory.records import Budget, CampaignRecord, CampaignState, Proposal
from swarm.memory.store import Store
from swarm.orchestrator import launching, settings
from swarm.orchestrator.campaign import Campaign
from swarm.orchestrator.cluster import hidden_paths
from swarm.orchestrator.driver import Driver
from swarm.orchestrator.leases import HeldLeases
from swarm.orchestrator.monitor.events import CampaignEvent
from swarm.orchestrator.monitor.progress import Progress
from swarm.orchestrator.pool import Pool
from swarm.orchestrator.worker import WorkerPlan
from swarm.orchestrator.workload import make_workload

SWARM = (sys.executable, "-c", "from swarm.orchestrator.cli import main; main()")


@pytest.fixture(scope="session")
def ray_pool() -> Iterator[Pool]:
    """Two real workers; a trial may take two seconds."""
    pool = Pool(WorkerPlan(hidden=hidden_paths()), 2, timeout=2.0)
    pool.start()
    yield pool
    pool.close()


@contextmanager
def emptied(pool: Pool) -> Iterator[Pool]:
    """The pool, without trials when the block is left."""
    yield pool
    pool.withdraw()
    while pool.running:
        pool.collect(5.0)


@pytest.fixture
def pool(ray_pool: Pool) -> Iterator[Pool]:
    """The pool, empty before and after."""
    with emptied(ray_pool):
        yield ray_pool


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(shutil.copy(empty_store, tmp_path / "swarm.db")) as opened:
        yield opened


@dataclass
class Driven:
    """A campaign after a driver has left it, with what was told of it."""

    state: CampaignState
    events: list[CampaignEvent]
    progress: Progress


@dataclass
class Stopping:
    """Proposes what agents do, and asks for a stop before it proposes a number."""

    agents: Any
    number: int | None
    stop: Callable[[], None] = lambda: None

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number."""
        if number == self.number:
            self.stop()
        return self.agents.propose(number, history)

    def commentary(self, history: History) -> str:
        """What the agents say."""
        return self.agents.commentary(history)


@pytest.fixture
def drive(ray_pool: Pool) -> Iterator[Callable[..., Driven]]:
    """Drives a campaign in this process, as `launch` does; it is asked to stop when `stop_at` is to be proposed."""

    def run(
        store: Store,
        record: CampaignRecord,
        agents: Any,
        *,
        lag: int = 8,
        ttl: float = 20.0,
        stop_at: int | None = None,
    ) -> Driven:
        events, progress = [], Progress()
        strategy = Stopping(agents, stop_at)
        with HeldLeases(store, ttl) as leases:
            campaign = Campaign(Driver(store, record, strategy, agents, ray_pool, leases, lag=lag))
            strategy.stop = campaign.stop
            for event in campaign:
                events.append(event)
                progress.apply(event)
        return Driven(campaign.state, events, progress)

    with emptied(ray_pool):
        yield run


@pytest.fixture
def campaign(store: Store) -> Callable[..., CampaignRecord]:
    """Makes campaigns."""

    def make(trials: int, seed: int = 0, **budget: float) -> CampaignRecord:
        return store.campaigns.create(None, {}, Budget.model_validate({"trials": trials, **budget}), seed)

    return make


@pytest.fixture
def rehearsed(store: Store, pool: Pool) -> Callable[[str, int], Campaign]:
    """A rehearsal as `swarm launch` puts it together, on the workers that are there."""

    def make(faults: str, budget: int) -> Campaign:
        chosen = settings.load(rehearsal=faults, budget=budget)
        workload = make_workload(chosen)
        record = launching.create(store, chosen, workload, pool.workers)
        return launching.assemble(store, record, chosen, workload, pool, ExitStack())

    return make


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def swarm(tmp_path: Path) -> Callable[..., Finished]:
    """Runs the command line in an empty folder, without a terminal."""

    def run(*arguments: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> Finished:
        done = subprocess.run(
            [*SWARM, *arguments],
            check=False,
            cwd=cwd or tmp_path,
            env=environment(env),
            capture_output=True,
            text=True,
            timeout=240,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    """This process's environment without anything that the command line reads, and with `extra`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SWARM_") or key == "SWARM_CACHE"}
    return {**kept, "COLUMNS": "200", **(extra or {})}


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Finished]:
    """Runs commands that need no workers in this process and an empty folder: quicker than a process each."""
    from swarm.orchestrator.cli import run

    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("SWARM_") and name != "SWARM_CACHE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> Finished:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            run(list(arguments))
        printed = capsys.readouterr()
        return Finished(int(ending.value.code or 0), printed.out, printed.err)

    return call


class Running:
    """A `swarm` process in its own process group, as a shell would start it."""

    def __init__(self, folder: Path, *arguments: str, env: dict[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*SWARM, *arguments],
            cwd=folder,
            env=environment(env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_trials(self, path: Path, count: int) -> None:
        """Until so many trials are complete."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and self.process.poll() is None:
            if path.exists() and _complete(path) >= count:
                return
            time.sleep(0.2)
        raise AssertionError(self.process.communicate())

    def end(self, signum: int | None = None, *, group: bool = False) -> tuple[int, str, str]:
        """Send a signal, if any, and wait for a limited time; exit code, output and errors."""
        if signum is not None:
            (os.killpg if group else os.kill)(self.process.pid, signum)
        out, err = self.process.communicate(timeout=200)
        return self.process.returncode, out, err


def _complete(path: Path) -> int:
    try:
        with Store.open(path, readonly=True) as store:
            return sum(store.trials.count(c.id).get("complete", 0) for c in store.campaigns.list())
    except Exception:  # it is being made
        return 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Starts `swarm` processes in an empty folder; none of them outlives the test."""
    started: list[Running] = []

    def run(*arguments: str, env: dict[str, str] | None = None) -> Running:
        started.append(Running(tmp_path, *arguments, env=env))
        return started[-1]

    yield run
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)
