"""`swarm bench`, and what all benchmarks of the common frame promise."""

import importlib
import json

import pytest

from swarm.orchestrator.commands import bench

frame = importlib.import_module("benchmarks._frame")
table = importlib.import_module("benchmarks._table")
rows = importlib.import_module("benchmarks._rows")
OWN_SCRIPTS = ("kernels",)
FRAMED = [name for name in bench.benchmark_names() if name not in OWN_SCRIPTS]
MARKS = {name: [pytest.mark.cluster] for name in ("gpu", "overhead", "scale")}
MARKS["engines"] = [pytest.mark.slow, pytest.mark.timeout(1800)]  # every trial starts a real engine
MARKS["planning"] = [pytest.mark.slow, pytest.mark.timeout(1800)]  # the same
MARKS["recommendation"] = [pytest.mark.slow]  # test_recommendation.py asks the same of campaigns that are made up
MARKS["trials"] = [pytest.mark.slow]  # three processes with a real model each; test_trials.py has a tiny one
MARKS["verification"] = [pytest.mark.slow]  # a server of a real model
MADE = {
    "search": table.FILE,
    "recommendation": table.FILE,
    **{name: rows.DATA / f"{name}.json" for name in ("correlation", "verdicts")},
}
"""Data that some are worked out from."""
RECORDS = {path.stem: json.loads(path.read_text()) for path in sorted(frame.DOCS.glob("*.json"))}
RECORDED = [name for name, record in RECORDS.items() if record.get("benchmark") in FRAMED]


def test_benchmarks_are_found_by_file_name_and_say_what_they_compare():
    assert set(OWN_SCRIPTS) <= set(bench.benchmark_names())
    assert all(bench.summary(name) for name in bench.benchmark_names())
    assert not any(name.startswith("_") for name in bench.benchmark_names())


def test_an_unknown_benchmark_names_those_there_are():
    with pytest.raises(bench.UnknownNameError, match="store"):
        bench.run("nope", short=True, as_json=False)


def test_an_installed_copy_says_that_it_has_no_benchmarks(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    with pytest.raises(bench.NoCheckoutError, match="checkout"):
        bench.benchmark_names()


@pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS[name]) if name in MARKS else name for name in FRAMED])
def test_the_short_form_runs_and_its_record_makes_a_page(name, capfd):
    data = MADE.get(name)
    if data is not None and not data.exists():
        pytest.skip(f"{data} was not made yet")
    assert bench.run(name, short=True, as_json=True) == 0
    record = json.loads(capfd.readouterr().out)
    assert (record["benchmark"], record["short"]) == (name, True)
    assert record["results"]
    assert record["versions"]
    page = importlib.import_module(f"benchmarks.{name}").BENCHMARK.page(record)
    assert page.startswith("# ")
    assert f"docs/benchmarks/{name}.json" in page or f"docs/benchmarks/{name}-cpu.json" in page


@pytest.mark.parametrize("name", RECORDED)
def test_the_page_in_the_docs_is_the_one_that_its_record_makes(name):
    record = RECORDS[name]
    assert not record["short"]
    page = importlib.import_module(f"benchmarks.{record['benchmark']}").BENCHMARK.page(record)
    assert (frame.DOCS / f"{name}.md").read_text() == page


def test_ratios_carry_their_spread():
    assert frame.ratio([2.0, 4.0, 6.0], [1.0, 2.0]) == {"ratio": 4.0 / 1.5, "low": 1.0, "high": 6.0}


def test_rounds_that_took_turns_are_compared_with_their_neighbours():
    """A host that slows down between rounds slows both, and an interrupted run lacks the last round of one."""
    found = frame.paired([2.0, 4.0, 20.0, 5.0], [1.0, 2.0, 5.0])
    assert found == {"ratio": 2.0, "low": 2.0, "high": 4.0}


def test_a_record_of_another_benchmark_is_refused(tmp_path):
    path = tmp_path / "record.json"
    path.write_text('{"benchmark": "store"}')
    with pytest.raises(frame.UsageError, match="store"):
        frame.read(path, "scale")
    with pytest.raises(frame.UsageError, match="no record"):
        frame.read(tmp_path / "missing.json", "scale")
