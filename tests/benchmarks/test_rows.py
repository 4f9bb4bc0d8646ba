"""Rows that processes make, and what the correlation study and the verdicts read out of them."""

import importlib
import json

import numpy as np
import pytest

from swarm.experiments.models import registry
from swarm.kernels.errors import UsageError

rows = importlib.import_module("benchmarks._rows")
correlation = importlib.import_module("benchmarks.correlation")
correlation_rows = importlib.import_module("benchmarks._correlation_rows")
frame = importlib.import_module("benchmarks._frame")
verdicts = importlib.import_module("benchmarks.verdicts")
verdict_rows = importlib.import_module("benchmarks._verdicts_rows")
MODEL = "smollm2-135m"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "DATA", tmp_path / "data")
    return tmp_path / "data"


def planted(model, count=40, seed=0):
    """Rows whose losses follow the KLD at 8K, and of which one is good at 512 tokens and bad at 8K."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        long = float(number if number else count)
        noisy = long + float(rng.normal(0, count / 4))
        alike = correlation.MEASURES.keys() - {"bits", "kld_512", "g", "kld_8k"}
        measures = dict.fromkeys(alike, noisy)
        yield {
            "model": model,
            "kv": f"configuration {number}",
            "failed": {},
            "bits": 16 - number / count,
            "kld_512": noisy if number else -float(count),
            **measures,
            "g": float(rng.normal()),
            "kld_8k": long,
            "retrieval_lost_p": [long / 100] * 2,
            "retrieval_kept": [1 - long / 100] * 2,
            "retrieval_delta_nll": [long / 10] * 2,
            "retrieval_answered_16bit": [0.5] * 2,
            "generation_kld": [long] * 2,
            "generation_tokens_until_parting": [100 - long] * 2,
            "generation_answer_tokens_16bit": [100.0] * 2,
        }


@pytest.mark.parametrize("name", [info.name for info in registry.catalogue()])
def test_every_model_has_at_least_sixty_configurations_of_many_methods_and_bits(name):
    found = correlation_rows.configurations(registry.describe(name))
    assert len(found) == len(set(found)) >= 60
    assert len({kv.key.method for kv in found}) >= 12
    assert {kv.key.bits for kv in found} >= {2, 3, 4, 5, 6, 8}


@pytest.mark.parametrize("seed", [0, 1])
def test_the_measure_that_tells_leads_with_an_interval_and_what_misleads_is_named(data, seed):
    made = [row for model in ("a", "b") for row in planted(model, seed=seed)]
    del made[-1]["kld_8k"]  # a row that broke down on a part
    made[-1]["failed"] = {"long": "non-finite"}
    rows.pack(made, data, data / "correlation.json")
    results = correlation.measure(True, lambda line: None)
    found = results["scopes"]["all"]["retrieval"]
    for kind in ("spearman", "kendall"):
        assert found["kld_8k"][kind]["mean"] == pytest.approx(1)
        assert found["kld_8k"][kind]["low"] <= 1 + 1e-9
        assert abs(found["g"][kind]["mean"]) < 0.4
        assert found["kld_512"][kind]["low"] < found["kld_512"][kind]["mean"] < 1
    assert found["kld_8k"]["lead"]["low"] > 0 == found["kld_512"]["lead"]["mean"]
    assert results["misleading"]["a"]["kld_8k"][0]["kv"] == "configuration 0"
    assert results["failed"] == 1
    assert all(results["repeatable"][scope]["retrieval"] == pytest.approx(1) for scope in correlation.SCOPES)
    others = correlation_rows.FULL
    assert results["finalists_by"] in others
    assert all(set(found) == set(others) for found in results["full"].values())


@pytest.mark.parametrize("telling", [None, "kld_p99"])
def test_the_page_says_what_finalists_should_be_chosen_by(data, telling):
    made = [
        row | ({f"full_{telling}": row["kld_8k"]} if telling else {}) for model in ("a", "b") for row in planted(model)
    ]
    rows.pack(made, data, data / "correlation.json")
    benchmark = correlation.BENCHMARK
    about = {"device": "a", "date": "2026-01-01", "git_revision": ""}
    record = frame.about(benchmark, short=True, load=0.0) | {"results": correlation.measure(True, lambda line: None)}
    record["results"]["made"] = [about]
    said = f"`{telling}` should." if telling else "none does, and `kld` stays."
    page = benchmark.page(record)
    assert said in page
    better_half = page.partition("## The better half at 512 tokens")[2].partition("## What finalists")[0]
    assert better_half.count("KLD at 8K") == len(correlation.LOSSES)


def test_verdicts_tell_what_loses_from_what_does_not_and_what_it_took(data):
    rng = np.random.default_rng(0)
    made = []
    for replicate in range(60):
        exact = rng.integers(0, 2, 24)
        bad = exact * (rng.random(24) > 0.2)
        scores = {"safe": exact.tolist(), "harmful": bad.tolist()}
        row = {"model": MODEL, "replicate": replicate, "failed": {}}
        made.append(
            row
            | {f"{score}_16bit": exact.tolist() for score in verdicts.SCORES}
            | dict.fromkeys(verdicts.SCORES, scores)
        )
    rows.pack(made, data, data / "verdicts.json")
    results = verdicts.measure(False, lambda line: None)
    found = {one["kv"]: one["match"] for one in results["verdicts"]}
    assert {kv: one["outcome"] for kv, one in found.items()} == {"safe": "safe", "harmful": "harmful"}
    assert found["harmful"]["items"] < found["safe"]["items"] < 60 * 24
    assert found["harmful"]["all"] == pytest.approx(0.1, abs=0.03)
    unable = [row | {"match_16bit": [0] * 24} for row in made]
    rows.pack(unable, data, data / "verdicts.json")
    results = verdicts.measure(False, lambda line: None)
    assert results["verdicts"] == []
    record = frame.about(verdicts.BENCHMARK, short=True, load=0.0) | {"results": results}
    assert "answers nothing: nothing can be lost" in verdicts.page(record)


def test_a_torn_line_is_made_again_and_missing_rows_are_named(data, tmp_path):
    whole = {"model": MODEL, "kv": "x"}
    (tmp_path / "rows-1.jsonl").write_text(json.dumps(whole) + "\n" + json.dumps(whole)[:9])
    assert correlation_rows.STUDY.made(tmp_path) == [whole]
    with pytest.raises(UsageError, match="_correlation_rows"):
        correlation_rows.STUDY.load()
    with pytest.raises(UsageError, match="no row"):
        rows.pack([], tmp_path, tmp_path / "out.json")


def test_jobs_take_the_models_in_turns():
    models = [info.name for info in registry.catalogue()][:2]
    assert [model for model, _ in correlation_rows.STUDY.jobs(models)[:4]] == models * 2
    assert list(verdict_rows.STUDY.jobs(models)[:3]) == [(models[0], 0), (models[1], 0), (models[0], 1)]
