"""A full disk and a folder without permission, met by real campaigns and commands; also as root, as in containers."""

import contextlib
import io
import os
import subprocess
import sys

import pytest
from store_workers import as_nobody

from swarm.kernels.errors import DiskFullError
from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator.rehearsal import Rehearsal


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with little space; grows on demand."""
    place = tmp_path / "disk"
    place.mkdir()

    def resize(size: str, *, again: bool = True) -> None:
        options = f"remount,size={size}" if again else f"size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")

    resize("3m", again=False)
    yield place, resize
    subprocess.run(["umount", "-l", place], check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_campaign_stops_at_a_full_disk_and_goes_on_when_there_is_space(small_disk, drive):
    place, resize = small_disk
    agents = Rehearsal.parse("2", seed=0)
    with Store.open(place / "swarm.db", create=True) as store:
        made = store.campaigns.create(None, {}, Budget(trials=400), 0)
        with pytest.raises(DiskFullError, match="no space is left"):
            drive(store, made, agents)
        kept = {record.number: record.metrics for record in store.trials.list(made.id, state="complete")}
        assert 0 < len(kept) < 400
        resize("64m")
        with store.database.write() as connection:  # what it held runs out: nothing could be given back
            connection.exec_driver_sql("UPDATE trials SET lease_expires = lease_at WHERE state = 'running'")
            connection.exec_driver_sql("UPDATE campaigns SET turn_expires = turn_at")
        assert drive(store, made, agents).state == "complete"
        now = {record.number: record.metrics for record in store.trials.list(made.id)}
        assert len(now) == 400
        assert all(now[number] == metrics for number, metrics in kept.items())
        assert store.ledger.totals(made.id)["trials"].spent == 400
        assert store.check() == []


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_launch_onto_a_full_disk_says_so_and_leaves_nothing_half_made(cli, small_disk):
    place, resize = small_disk
    resize("64k")
    done = cli("launch", "--store", str(place / "swarm.db"), "--rehearsal", "1")
    assert done.code == 1
    assert "no space is left" in done.err
    assert done.err.count("\n") == 1
    resize("16m")
    with Store.open(place / "swarm.db", create=True) as store:
        assert store.check() == []


def test_a_folder_without_write_permission(tmp_path_factory):
    """Root may write everywhere, so the command runs as nobody."""
    import tempfile
    from pathlib import Path

    from swarm.orchestrator.cli import run

    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    locked = folder / "locked"
    locked.mkdir()
    folder.chmod(0o755)
    locked.chmod(0o555)

    def launch() -> str:
        os.chdir("/")
        told = io.StringIO()
        with contextlib.redirect_stderr(told), pytest.raises(SystemExit) as ending:
            run(["launch", "--store", str(locked / "swarm.db"), "--rehearsal", "1"])
        return f"{ending.value.code} {told.getvalue()}"

    try:
        answer = as_nobody(launch)
        assert answer.startswith("1 error: "), answer
        assert "locked" in answer
        assert answer.count("\n") == 1
        assert list(locked.iterdir()) == []
    finally:
        locked.rmdir()
        folder.rmdir()
