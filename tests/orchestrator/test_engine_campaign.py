"""`swarm launch --engine`: what is refused before anything runs, and a small campaign against a stand-in."""

from __future__ import annotations

import os

import pytest
from stand_in_engines import executable
from typer.testing import CliRunner

from swarm.experiments.engines.run.startable import MissingEngineError
from swarm.experiments.models import registry
from swarm.kernels.errors import UsageError
from swarm.memory.store import Store
from swarm.orchestrator import campaign_workers, foreground, launching, settings, workload
from swarm.orchestrator.cli import app


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    executable(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)


def test_a_context_may_be_written_with_its_k():
    assert settings.load(context="16K").context == 16 * 1024
    assert settings.load(context="512").context == 512
    assert settings.load(engine="llama.cpp", context="16K").trial_timeout == 8 * settings.load().trial_timeout
    with pytest.raises(UsageError, match="--context"):
        settings.load(context="16Q")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"engine": "llama.cxx"}, "unknown engine 'llama.cxx'"),
        ({"engine": "lm-studio"}, "LM Studio cannot be started from here"),
        ({"engine": "llama.cpp", "agenda": "long-context"}, "goes with neither"),
        ({"engine": "llama.cpp", "llm": "local"}, "roles know caches"),
        ({"engine": "llama.cpp", "models": "nothing.gguf"}, "no file nothing.gguf"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(stand_in, flags, words):
    with pytest.raises(Exception, match=words):
        workload.check(settings.load(**flags))


def test_a_file_that_only_the_engine_reads_is_a_model(stand_in):
    file = str(registry.gguf("smollm2-135m"))
    chosen = settings.load(engine="llama.cpp", models=file, context="512")
    foreground.prepare(chosen)
    assert workload.make_workload(chosen).identity["models"].keys() == {file}
    assert registry.weight_bytes(file) > 1e7


def test_an_engine_that_is_not_here_is_refused_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingEngineError, match="vllm"):
        workload.check(settings.load(engine="vllm", models="smollm2-135m"))


def test_engine_trials_run_one_at_a_time_and_are_seen_soon(stand_in):
    chosen = settings.load(engine="llama.cpp", models="smollm2-135m", context="1K", max_kld=0.05)
    assert campaign_workers.make_pool(chosen).workers == 1
    strategy = launching.make_strategy(chosen, workload.make_workload(chosen))
    kinds = {strategy.schedule.at(number)[1] for number in range(60)}
    assert kinds == {"default", "quality", "replication", "finalist", "random_search", "tpe"}


@pytest.mark.slow
def test_a_campaign_of_an_engine_ends_with_flags_to_use(stand_in, tmp_path):
    chosen = {"engine": "llama.cpp", "context": 512, "max_kld": 0.05, "store": str(tmp_path / "s.db")}
    assert launching.launch("smollm2-135m", 20, **chosen).result(progress=False) == "complete"
    with Store.open(str(tmp_path / "s.db")) as store:
        records = store.trials.list()
        (summary,) = store.summaries.list()
    assert "Which flags to use" in summary.summary.text
    assert {r.spec.protocol for r in records} == {"engine"}
    assert {r.outcome for r in records} <= {"ok", "refused", "oom"}
    assert any(r.outcome == "refused" and "--batch-size 256" in r.message for r in records)
    for command in (["trials", "--best", "3"], ["trials", "--pareto"], ["status"], ["reproduce", "1"]):
        shown = CliRunner().invoke(app, [*command, "--store", str(tmp_path / "s.db")])
        assert shown.exit_code == 0, shown.output
