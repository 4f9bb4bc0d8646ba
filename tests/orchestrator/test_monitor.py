"""Watching a campaign: its events, what they add up to, how that fits into terminals, and from another process."""

from __future__ import annotations

import io
import itertools
import os
import pty
import re
import signal
import subprocess
import threading
import time

import pytest
from rich.console import Console
from samples import complete, fail, finding, measurement, proposal

from swarm.memory.records import Budget, Prediction, Score
from swarm.memory.store import Store
from swarm.orchestrator.monitor import panel
from swarm.orchestrator.monitor.events import CampaignOpened, EventReader
from swarm.orchestrator.monitor.panel import sketch
from swarm.orchestrator.monitor.progress import Line, Progress
from swarm.orchestrator.monitor.view import PlainMonitor

from .conftest import SWARM, environment

EVIL = "\x1b[2J[bold]no[/bold]\nworker died"


def run_trials(store, campaign, start, count, *, model="alpha", fail_every=0):
    for number in range(start, start + count):
        prediction = Prediction(metric="kld", comparator="<=", threshold=0.5) if number % 4 == 3 else None
        bits = 3.0 + number % 6
        record = store.propose(campaign.id, number, proposal(number, model=model, prediction=prediction))
        lease = store.queue.claim(record.id, "driver")
        if fail_every and number % fail_every == 0:
            fail(store, lease, "oom", EVIL)
        else:
            complete(store, lease, measurement(kld=2.0 / (number + 1), bits=bits))


@pytest.fixture
def watched(store):
    """A campaign with nothing in it yet, and a reader that has opened it."""
    budget = Budget(trials=40, seconds=600, tokens=1000)
    campaign = store.campaigns.create("night", {"models": ["alpha", "beta"]}, budget, 0)
    reader = EventReader(store, campaign.id)
    return campaign, progress_of(reader.open()), reader


def progress_of(events, progress=None):
    progress = progress or Progress()
    for event in events:
        progress.apply(event)
    return progress


def test_every_change_is_told_once(store, watched):
    campaign, progress, reader = watched
    run_trials(store, campaign, 0, 8, fail_every=5)
    events = reader.read()
    progress_of(events, progress)
    assert [event.kind for event in events].count("proposal") == 8
    assert sorted(event.record.id for event in events if event.kind == "trial") == list(range(1, 9))
    assert reader.read() == []
    assert (progress.done, progress.failed, progress.running) == (8, 2, 0)
    assert progress.per_model == {"alpha": 8}
    assert progress.spend["trials"].spent == 8


def test_what_was_there_before_is_no_news_and_what_comes_is(store, watched):
    campaign = watched[0]
    run_trials(store, campaign, 0, 4)
    reader = EventReader(store, campaign.id)
    opened, *_ = events = reader.open()
    assert isinstance(opened, CampaignOpened)
    progress = progress_of(events)
    assert (progress.name, progress.total, progress.models) == ("night", 40, ("alpha", "beta"))
    assert progress.done == 4
    assert not progress.lines
    store.findings.upsert(campaign.id, finding(1, 2, key="plateau:kld:4.6:alpha"))
    run_trials(store, campaign, 4, 4)
    store.predictions.score(4, Score(verdict="confirmed", observed=0.3, low=0.2, high=0.4))
    store.predictions.score(8, Score(verdict="refuted", observed=0.7))
    progress_of(reader.read(), progress)
    kinds = [line.kind for line in progress.lines]
    assert kinds.count("finding") == 1
    verdicts = [line for line in progress.lines if line.kind == "prediction"]
    assert [line.mood for line in verdicts] == ["good", "bad"]
    assert verdicts[0].text == "prediction confirmed: trial 4 kld <= 0.5, is 0.3 [0.2, 0.4] (tpe)"
    assert len(progress.proposals) == 4
    assert progress.plateaus("alpha") == ["KLD <= 4.6 bits"]
    store.findings.upsert(campaign.id, finding(1, 2, key="plateau:kld:4.6:alpha", status="refuted"))
    progress_of(reader.read(), progress)
    assert progress.plateaus("alpha") == []
    assert [line.mood for line in progress.lines if line.kind == "finding"] == ["", "bad"]


def test_best_and_front_are_those_of_the_cheap_rung(store, watched):
    campaign, progress, reader = watched
    for number, (kld, bits, rung) in enumerate([(0.5, 4, 0), (0.3, 5, 0), (0.4, 4.5, 0), (0.1, 3, 1), (0.6, 8, 0)]):
        record = store.propose(campaign.id, number, proposal(number, rung=rung))
        complete(store, store.queue.claim(record.id, "driver"), measurement(kld=kld, bits=bits))
    progress_of(reader.read(), progress)
    assert (progress.best["alpha"].kld, progress.best["alpha"].number) == (0.4, 2)
    assert progress.front("alpha") == [(0.5, 4), (0.4, 4.5), (0.3, 5)]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The progress of a campaign with everything in it."""
    with Store.open(tmp_path_factory.mktemp("store") / "swarm.db", create=True) as store:
        settings = {"models": ["alpha", "beta"]}
        campaign = store.campaigns.create("night", settings, Budget(trials=40, seconds=600, tokens=1000), 0)
        reader = EventReader(store, campaign.id)
        progress = progress_of(reader.open())
        run_trials(store, campaign, 0, 24, fail_every=7)
        long = finding(2, 3, key="plateau:kld:4.6:alpha", statement="A long statement about many things. " * 12)
        store.findings.upsert(campaign.id, long)
        progress_of(reader.read(), progress)
    progress.phase = "the agents write their summary"
    return progress


def test_the_panel_fits_into_every_terminal(full):
    for width, height in itertools.product((20, 60, 80, 120, 200), (5, 24, 50)):
        console = Console(width=width, height=height, no_color=True, force_terminal=True, file=io.StringIO())
        with console.capture() as capture:
            console.print(panel.layout(full, width, height))
        lines = re.sub(r"\x1b\[[0-9;]*m", "", capture.get()).splitlines()
        assert "24/40" in "".join(lines[:2])
        assert max(map(len, lines)) <= width
        assert height < 24 or len(lines) <= height
        assert "\x1b[2J" not in capture.get()
        if (width, height) == (120, 50):
            text = "\n".join(lines)
            for part in ("night", "4 oom", "time 0s of 10m00s", "of 1000 tokens", "KLD <= 4.6 bits", "proposed",
                         "KLD by bits/value", "[bold]no[/bold] worker died", "predicts kld <= 0.5"):  # fmt: skip
                assert part in text


def test_a_terminal_without_unicode_gets_ascii(full):
    console = Console(width=80, height=40, file=io.StringIO())
    with console.capture() as capture:
        console.print(panel.layout(full, 80, 40, unicode=False))
    drawn = capture.get().replace("…", "")
    assert drawn.isascii()
    assert "####" in drawn


@pytest.mark.parametrize("points", [[], [(0.1, 4.0)], [(0.0, 4.0), (0.0, 4.0)], [(1e-9, 3.0), (1e3, 16.0)]])
def test_a_sketch_of_any_points_keeps_its_size(points):
    lines = sketch(points, points[:1], width=40, height=7)
    assert len(lines) == (7 if points else 0)
    assert all(len(line) <= 40 for line in lines)
    assert sketch(points, [], width=10, height=7) == []


def test_lines_in_a_pipe_are_short_and_say_what_matters(store, watched, capsys):
    campaign, progress, reader = watched
    with PlainMonitor(progress) as shown:
        run_trials(store, campaign, 0, 40, fail_every=9)
        store.findings.upsert(campaign.id, finding(2, 3, key="x", statement="Much ado about nothing. " * 40))
        for event in (*reader.read(), *reader.read()):
            shown.show(event)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 140
    assert any(line.startswith("trial 4 tpe, predicts kld <= 0.5:") for line in lines)
    assert any(line.startswith("trial 1 oom: [2J[bold]no[/bold] worker died") for line in lines)
    assert any(line.startswith("plateau [hypothesis] Much ado") and line.endswith("…") for line in lines)
    assert [line for line in lines if line.startswith("trial 40/40")] == [lines[-1]]


def test_a_line_is_cut_between_words():
    assert Line("phase", "one two three four").cut(13) == "one two…"
    assert Line("phase", "one two").cut(13) == "one two"
    assert Line("phase", "x" * 50).cut(10) == "x" * 9 + "…"


def test_status_follows_a_campaign_that_another_driver_runs(store, watched, cli):
    campaign = watched[0]
    run_trials(store, campaign, 0, 2)

    def drive():
        time.sleep(0.5)
        run_trials(store, campaign, 2, 18)
        store.campaigns.finish(campaign.id, "complete")

    driver = threading.Thread(target=drive)
    driver.start()
    done = cli("status", "--watch")
    driver.join()
    assert done.code == 0, done.err
    assert "best alpha at <= 4.6 bits" in done.out
    assert "night: complete, 20 of 40 trials" in done.out


def test_ctrl_c_gives_the_terminal_back_as_it_was(store, watched, tmp_path):
    run_trials(store, watched[0], 0, 3)
    leader, follower = pty.openpty()
    env = environment({"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", "NO_COLOR": "1"})
    process = subprocess.Popen(
        [*SWARM, "status", "--watch"], cwd=tmp_path, env=env, stdin=follower, stdout=follower, stderr=subprocess.PIPE
    )
    os.close(follower)
    seen = b""
    try:
        while b"3/40" not in seen:
            seen += os.read(leader, 65536)
        process.send_signal(signal.SIGINT)
        while True:
            try:
                piece = os.read(leader, 65536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            seen += piece
    finally:
        process.kill()
        process.wait()
        os.close(leader)
    errors = process.stderr.read()
    process.stderr.close()
    assert errors == b""
    assert seen.count(b"\x1b[?1049h") == seen.count(b"\x1b[?1049l") == 1
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    after = seen[seen.rindex(b"\x1b[?1049l") :]
    assert b"night: running, 3 of 40 trials" in after
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", seen)  # NO_COLOR
