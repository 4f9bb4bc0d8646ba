"""Records of `swarm verify`'s benchmark: runs of different days beside each other, and runs that go on after an end."""

import importlib
import json

import pytest

verification = importlib.import_module("benchmarks.verification")
page = importlib.import_module("benchmarks._verification_page")
frame = importlib.import_module("benchmarks._frame")


def record(revision, date, rows):
    facts = {"date": date, "git_revision": revision, "device": f"CPU of {date}", "cores": 2, "load_before": 0.1}
    of = {
        "benchmark": "verification",
        "command": "swarm bench verification",
        "blas": "B",
        "python": "3",
        "versions": {},
    }
    results = {"tokens": 24, "clients": 2, "rounds": 6, "wanted": len(rows) + 1, "rows": rows, "failures": []}
    return {**facts, **of, "results": results}


def row(where, blamed=(), cache="f16"):
    return {
        "server": "llama.cpp", "cache": cache, "where": where, "what": "drop", "seed": 1, "blamed": list(blamed),
        "rounds": 4, "seconds": 30.0, "noise": 0.0, "largest": {"reuse": 0.5}, "exceeded": {"reuse": 4},
    }  # fmt: skip


def test_faults_and_clean_servers_of_different_days_make_one_page_that_says_so():
    faults = record("aaaaaaaa", "2026-01-01", [row("reuse", ["reuse"])])
    clean = record("bbbbbbbb", "2026-02-02", [row("nowhere")] * 50)
    later = record("cccccccc", "2026-03-03", [row("nowhere", ["slots"])])
    text = page.page(page.joined([page.joined([clean, faults]), later]))
    for made, device in (("2026-01-01, aaaaaaa", "2026-01-01"), ("2026-02-02, bbbbbbb", "2026-02-02")):
        assert f"Made {made}: CPU of {device}, 2 cores" in text
    assert "| drop, reuse | 2026-01-01, aaaaaaa | reuse |" in text
    assert "| llama.cpp | f16 | 2026-02-02, bbbbbbb | 50 | 0 |" in text
    assert "| llama.cpp | f16 | 2026-03-03, ccccccc | 1 | 1 |" in text
    assert "no clean run of 50 blamed: not met (1 of 51)" in text
    assert "no clean run of 50 blamed: met (0 of 50)" in page.page(page.joined([faults, clean]))


def test_a_run_that_went_on_counts_what_it_added_alone():
    first = record("aaaaaaaa", "2026-01-01", [row("nowhere")] * 49)
    (kept,) = {json.dumps(line) for line in page.joined([first])["results"]["rows"]}
    later = record("aaaaaaaa", "2026-02-02", [json.loads(kept)] * 49 + [row("nowhere", cache="q4_0")])
    text = page.page(page.joined([first, later]))
    assert "no clean run of 50 blamed: met (0 of 50)" in text
    assert "CPU of 2026-02-02, 2 cores, load average 0.1 before it began, ; 1 of 2 runs were done" in text


def test_rows_that_a_killed_run_has_kept_are_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setenv("VERIFICATION_KEEP", str(tmp_path / "kept.jsonl"))
    (case,) = verification.cases(short=True)
    kept = row(case.where, [case.where]) | {"server": case.server, "cache": case.cache, "what": case.what}
    lines = [json.dumps(kept), json.dumps(kept | {"seed": 99}), '{"server": "cut o']
    (tmp_path / "kept.jsonl").write_text("\n".join(lines))
    assert verification.measure(True, print)["rows"] == [kept]


def test_a_part_of_the_runs_can_be_asked_for(monkeypatch):
    whole = verification.cases(short=False)
    monkeypatch.setenv("VERIFICATION_ONLY", "clean")
    clean = verification.cases(short=False)
    assert len(clean) >= 50
    monkeypatch.setenv("VERIFICATION_ONLY", "faults")
    assert [*verification.cases(short=False), *clean] == whole
    monkeypatch.setenv("VERIFICATION_ONLY", "cleen")
    with pytest.raises(frame.UsageError, match="cleen"):
        verification.cases(short=False)
