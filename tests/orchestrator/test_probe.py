"""`swarm probe`: results are shown, and kept as trials of the store."""

from __future__ import annotations

import json

import jsonschema
import pytest
from engine_server import FakeEngine, events

from swarm.memory.store import Store
from swarm.orchestrator.commands import schema as schemas

STREAM = {"Content-Type": "text/event-stream"}
JSON = {"Content-Type": "application/json"}


def probe(cli, url, *more):
    return cli("probe", "--endpoint", url, "--contexts", "64,128", "--tokens", "8", "--repeats", "2", *more)


def test_results_are_shown_and_kept(cli, mlx_server, tmp_path):
    done = probe(cli, mlx_server.url, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    jsonschema.validate(found, schemas.schema("probe"))
    assert found["engine"] == "mlx_lm"
    assert [row["context"] for row in found["results"]] == [64, 128]
    with Store.open(tmp_path / "swarm.db", readonly=True) as store:
        campaign = store.campaigns.get(found["campaign"])
        trials = store.trials.list(campaign.id)
    assert (campaign.name, campaign.state) == ("probe-mlx_lm-1", "complete")
    assert [trial.spec.protocol for trial in trials] == ["probe", "probe"]
    assert [trial.state for trial in trials] == ["complete", "complete"]
    for trial, row in zip(trials, found["results"], strict=True):
        assert trial.id == row["trial"]
        assert trial.metrics["ttft"].value == pytest.approx(row["metrics"]["ttft"]["value"])
        assert trial.metrics["ttft"].n == 2
    done = probe(cli, mlx_server.url, "--clients", "1")
    assert done.code == 0, done.err
    assert "prefill tok/s" in done.out
    assert "clients" not in done.out
    assert "Kept as campaign probe-mlx_lm-2" in done.err
    shown = cli("trials", "--campaign", "probe-mlx_lm-1", "--json")
    assert shown.code == 0, shown.err
    again = cli("reproduce", "1")
    assert (again.code, again.out) == (2, "")
    assert f"`swarm probe --endpoint {found['endpoint']} --model {found['model']} --contexts 64`" in again.err


def test_a_refusal_is_kept_as_a_failed_trial(cli, tmp_path):
    def answer(method, path, body):
        if method == "GET":
            listed = {"object": "list", "data": [{"id": "m", "object": "model"}]}
            return (200, JSON, [json.dumps(listed).encode()]) if path == "/v1/models" else (404, JSON, [b"{}"])
        if len(body["prompt"]) > 3000:
            return 400, JSON, [b'{"error": {"message": "context length exceeded"}}']
        piece = {"id": "1", "object": "text_completion", "created": 1, "model": "m"}
        said = {**piece, "choices": [{"index": 0, "text": "x", "finish_reason": None}]}
        usage = {"prompt_tokens": len(body["prompt"]) // 4, "completion_tokens": 2, "total_tokens": 3}
        return 200, STREAM, events(said, said, {**piece, "choices": [], "usage": usage})

    with FakeEngine(answer) as fake:
        done = cli("probe", "--endpoint", fake.url, "--contexts", "512,4K,8K", "--repeats", "1", "--tokens", "4")
    assert done.code == 0, done.err
    assert "4K: " in done.out
    assert "context length exceeded" in done.out
    with Store.open(tmp_path / "swarm.db", readonly=True) as store:
        trials = store.trials.list()
    assert [(trial.state, trial.outcome) for trial in trials] == [("complete", "ok"), ("failed", "refused")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--endpoint", "http://127.0.0.1:1"), "nothing answers at http://127.0.0.1:1/v1"),
        (("--endpoint", "ftp://x"), "not the URL"),
        (("--endpoint", "http://127.0.0.1:1", "--contexts", "long"), "no number of tokens"),
        (("--endpoint", "http://127.0.0.1:1", "--corpus", "missing.txt"), "missing.txt"),
        ((), "--endpoint"),
    ],
)
def test_mistakes_get_one_line_and_leave_no_store(cli, tmp_path, args, said):
    done = cli("probe", *args)
    assert done.code in (1, 2)
    assert said in done.err
    assert done.err.count("\n") == 1
    assert not (tmp_path / "swarm.db").exists()
