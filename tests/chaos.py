"""Kills drivers, workers and Ray heads of campaigns at random moments, and checks what the stores hold afterwards.

    python tests/chaos.py --kills 200 --seed 1 --out chaos.json

Campaigns are `swarm launch` and `swarm resume` as people run them, on SQLite and PostgreSQL: most of them with trials
that do nothing, some with trials of a tiny model. Linux only, as processes are found in /proc.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swarm.kernels.errors import SwarmError
from swarm.memory.records import CampaignRecord
from swarm.memory.store import Store

MARK = "KV_SWARM_CHAOS"
LEASE_SECONDS = 4.0
"""Instead of 20: what a dead driver held is free again sooner, so that there is more to kill in less time."""
PATIENCE = 900.0
HASTE = 0.05
"""Chance that a driver may be killed although its campaign came no further since one was."""
NODE = {"num_cpus": 4, "object_store_memory": 80 << 20, "include_dashboard": False}
CONTEXT = multiprocessing.get_context("forkserver")
# Not Ray itself: forked after its import, two drivers would draw the same identities.
CONTEXT.set_forkserver_preload(["optuna", "swarm.orchestrator.campaign", "swarm.agents.generation.strategy", "chaos"])


def drive(arguments: list[str], folder: str, log: str) -> None:
    """Be a `swarm` process."""
    from swarm.orchestrator import leases
    from swarm.orchestrator.cli import main

    leases.TTL = LEASE_SECONDS
    os.chdir(folder)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(out, 1)
    os.dup2(out, 2)
    main(arguments)


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command line of every process."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                found[int(entry.name)] = parent, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:  # it is gone
                continue
    return found


def below(root: int, name: str) -> list[int]:
    """The descendants of a process whose command line holds a name."""
    known = processes()
    kept, inside = [], {root}
    for pid in sorted(known):  # parents are older, and numbers seldom come round
        if known[pid][0] in inside:
            inside.add(pid)
            if name in known[pid][1]:
                kept.append(pid)
    return kept


def kill(pid: int) -> bool:
    """Kill a process at once; False when it was gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


@dataclass
class Subject:
    """A campaign that is being tortured.

    Args:
        store: where it is kept.
        name: its name.
        launch: how it is launched.
        drivers: how many drivers share it.
        address: the Ray cluster; None lets each driver start its own, whose head can then be killed.
    """

    store: str
    name: str
    launch: tuple[str, ...]
    folder: Path
    drivers: int = 1
    address: str | None = None
    running: list[Any] = field(default_factory=list)
    seen: dict[int, tuple[object, ...]] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    spared: set[int] = field(default_factory=set)
    wounded: int = -1
    done: bool = False

    @property
    def log(self) -> Path:
        """What its drivers say."""
        return self.folder / f"{self.name}.log"

    def tend(self) -> None:
        """Bury drivers that ended, and start new ones until the campaign is complete."""
        for driver in [driver for driver in self.running if driver.exitcode is not None]:
            self.running.remove(driver)
            if driver.exitcode not in (0, -signal.SIGKILL) and driver.pid not in self.spared:
                self.surprises.append(f"{self.name}: a driver ended with {driver.exitcode}")
        campaign = self.look()
        if campaign is not None and campaign.state == "complete":
            self.done = not self.running
            return
        # A second driver joins when there is a campaign; the first one launches it.
        wanted = self.drivers if campaign is not None else 1
        while len(self.running) < wanted:
            command = ["launch", "--name", self.name, *self.launch] if campaign is None else ["resume", self.name]
            where = ["--ray-address", self.address] if self.address else []
            workers = ["--workers", "1" if self.drivers > 1 else "2"]
            arguments = [*command, "--store", self.store, *workers, *where]
            driver = CONTEXT.Process(target=drive, args=(arguments, str(self.folder), str(self.log)))
            driver.start()
            self.running.append(driver)

    def look(self) -> CampaignRecord | None:
        """Read the campaign; whatever was once complete must still be there, unchanged."""
        try:
            with Store.open(self.store, readonly=True) as store:
                found = [campaign for campaign in store.campaigns.list() if campaign.name == self.name]
                if not found:
                    return None
                sql = f"SELECT id, number, kld, bits_per_value, finished_at, lease_token FROM trials WHERE campaign_id = {found[0].id} AND state = 'complete'"  # noqa: E501
                now = {row[0]: row for row in store.query(sql, limit=1_000_000, seconds=600).rows}
        except SwarmError as error:
            if "no store" in str(error) or "empty" in str(error):
                return None
            raise
        lost = {trial: row for trial, row in self.seen.items() if now.get(trial) != row}
        if lost:
            raise AssertionError(f"{self.name}: results were lost or changed: {lost}")
        self.seen = now
        return found[0]

    def verify(self) -> dict[str, int]:
        """Check a complete campaign; how its trials ended.

        Raises:
            AssertionError: something was lost, done twice, or does not add up.
        """
        with Store.open(self.store, readonly=True) as store:
            campaign = store.campaigns.get(self.name)
            trials = store.trials.list(campaign.id, arrays=False)
            budget = campaign.budget.trials
            account = store.ledger.totals(campaign.id)["trials"]
            assert campaign.state == "complete", campaign.state
            assert [trial.number for trial in trials] == list(range(budget)), "numbers are missing or double"
            assert len({trial.fingerprint for trial in trials}) == budget, "a trial was run twice"
            assert (account.spent, account.reserved) == (budget, 0), f"the budget is not exact: {account}"
            assert len(store.predictions.list(campaign.id)) == len({t.id for t in trials if t.prediction})
            problems = store.check()  # pages, keys, ledger against its parts, trials against results, fronts
            assert problems == [], problems
        states = Counter(f"{trial.state} {trial.outcome}" for trial in trials)
        assert set(states) <= {"complete ok", "quarantined crash", "failed crash"}, states
        return dict(states)


class Chaos:
    """Subjects, and who kills them."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.kills: Counter[str] = Counter()
        self.subjects: list[Subject] = []

    def strike(self, cluster: Any) -> None:
        """Kill one process; workers most often, as they are the most."""
        kind = self.rng.choices(("worker", "driver", "head", "node"), (60, 30, 6, 4))[0]
        drivers = [(subject, driver) for subject in self.subjects for driver in subject.running]
        # Mostly not before something was done since the last time, however slow the machine is.
        ripe = [pair for pair in drivers if len(pair[0].seen) > pair[0].wounded or self.rng.random() < HASTE]
        if kind == "worker":
            roots = [os.getpid(), *(driver.pid for subject, driver in drivers if not subject.address)]
            victims = [pid for root in roots for pid in below(root, "ray::Worker")]
            if victims and kill(self.rng.choice(victims)):
                self.kills[kind] += 1
        elif kind == "driver" and ripe:
            subject, driver = self.rng.choice(ripe)
            self._kill_driver(subject, driver)
            self.kills[f"{kind} on {_database(subject)}"] += 1
        elif kind == "head":
            own = [(subject, driver) for subject, driver in ripe if not subject.address]
            heads = [(subject, driver, pid) for subject, driver in own for pid in below(driver.pid, "gcs_server")]
            if heads:
                subject, driver, pid = self.rng.choice(heads)
                subject.spared.add(driver.pid)
                kill(pid)
                self.kills[kind] += 1
                driver.join(self.rng.uniform(0.2, 6.0))  # it may notice, or not
                self._kill_driver(subject, driver)

        elif kind == "node":
            cluster.remove_node(self.rng.choice(sorted(cluster.worker_nodes, key=id)), allow_graceful=False)
            self.kills[kind] += 1
            cluster.add_node(wait=False, **NODE)

    def run(self, kills: int, cluster: Any, pace: tuple[float, float], more: Any) -> dict[str, int]:
        """Kill so often, then let every campaign end; `more` gives a successor to a campaign that is complete."""
        ends: Counter[str] = Counter()
        started = time.monotonic()
        deadline = started + PATIENCE + 60 * kills
        while self.subjects:
            if time.monotonic() > deadline:
                raise AssertionError("the campaigns do not end")
            for subject in list(self.subjects):
                subject.tend()
                if subject.done:
                    ends.update(subject.verify())
                    ends["campaigns"] += 1
                    self.subjects.remove(subject)
                    if self.kills.total() < kills:
                        self.subjects.append(more(subject))
            if self.kills.total() < kills:
                time.sleep(self.rng.uniform(*pace))
                before = self.kills.total()
                self.strike(cluster)
                if self.kills.total() > before and self.kills.total() % 10 == 0:
                    say(f"{time.monotonic() - started:7.0f} s  {dict(self.kills)}  {dict(ends)}")
            else:
                time.sleep(0.2)
        return dict(ends)

    def _kill_driver(self, subject: Subject, driver: Any) -> None:
        subject.wounded = len(subject.seen)
        driver.kill()
        driver.join()


def _database(subject: Subject) -> str:
    return "postgresql" if "://" in subject.store else "sqlite"


@contextmanager
def cluster(nodes: int) -> Iterator[Any]:
    """A Ray cluster that campaigns can use: a head, and nodes that run trials; its processes are ours."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    made = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    try:
        for _ in range(nodes):
            made.add_node(wait=False, **NODE)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


def sweep() -> None:
    """End whatever is left of the processes that drivers started."""
    for entry in Path("/proc").iterdir():
        try:
            ours = entry.name.isdigit() and f"{MARK}={os.getpid()}".encode() in (entry / "environ").read_bytes()
        except OSError:
            continue
        if ours and int(entry.name) != os.getpid():
            kill(int(entry.name))


def torture(folder: Path, postgres: str, kills: int, seed: int, *, real: bool, trials: int) -> dict[str, Any]:
    """Run campaigns on both databases and kill; what was killed and how the trials ended."""
    os.environ[MARK] = str(os.getpid())
    os.environ["RAY_TMPDIR"] = str(folder)
    noop = ("--rehearsal", "20", "--budget", str(trials))
    chaos = Chaos(seed)
    numbers = iter(range(1_000_000))
    with cluster(2) as made:
        shared = {"folder": folder, "address": made.address}
        lite = str(folder / "swarm.db")
        chaos.subjects = [
            Subject(lite, "lite", noop, **shared),
            Subject(postgres, "shared", noop, drivers=2, **shared),
        ]
        if real:
            from tiny_models import write_tiny_model

            model = str(write_tiny_model(folder / "tiny", "llama"))
            measure = ("--models", model, "--context", "64", "--budget", "16")
            chaos.subjects += [
                Subject(lite, "alone", noop, folder),
                Subject(postgres, "real", measure, **shared),
            ]
        everybody = list(chaos.subjects)

        def more(before: Subject) -> Subject:
            name = f"{before.name.partition('-')[0]}-{next(numbers)}"
            launch = (*before.launch, "--seed", str(chaos.rng.randrange(1000)))
            launch = launch if "--seed" not in before.launch else before.launch
            after = Subject(before.store, name, launch, folder, before.drivers, before.address)
            everybody.append(after)
            return after

        try:
            ends = chaos.run(kills, made, (0.1, 1.2), more)
        finally:
            for subject in everybody:
                for driver in subject.running:
                    driver.kill()
            sweep()
    surprises = [line for subject in everybody for line in subject.surprises]
    return {"kills": dict(chaos.kills), "ends": ends, "surprises": surprises}


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--trials", type=int, default=60, help="trials per campaign that does nothing")
    parser.add_argument("--noop", action="store_true", help="leave the campaigns on a model out")
    parser.add_argument("--keep", action="store_true", help="keep stores and logs")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    from postgres_server import PostgresServer

    folder = Path(tempfile.mkdtemp(prefix="kvc-", dir="/tmp"))
    server = PostgresServer()
    started = time.monotonic()
    try:
        report = torture(
            folder,
            server.create_database(),
            arguments.kills,
            arguments.seed,
            real=not arguments.noop,
            trials=arguments.trials,
        )
    finally:
        server.stop()
        if arguments.keep:
            say(str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)
    report |= {"seed": arguments.seed, "seconds": round(time.monotonic() - started), "python": sys.version.split()[0]}
    text = json.dumps(report, indent=1)
    say(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
