"""Thirty random kills across drivers, workers, heads and nodes; `python tests/chaos.py` is the long form."""

import shutil
import sys
import tempfile
from pathlib import Path

import chaos
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.fixture
def short_folder():
    """Sockets of Ray lie below it, and their paths may not be long."""
    folder = Path(tempfile.mkdtemp(prefix="kvc-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_thirty_kills_lose_nothing_and_repeat_nothing(short_folder, postgres_url):
    report = chaos.torture(short_folder, postgres_url, kills=30, seed=5, real=False, trials=40)
    assert sum(report["kills"].values()) >= 30
    assert report["ends"]["complete ok"] >= 80
    assert report["surprises"] == []
