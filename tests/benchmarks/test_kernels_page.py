"""The Apple table of docs/kernels.md: its predictions are computed, and a Mac's run fills in its own row."""

import importlib
import json

import pytest
from emulated import Emulated

from swarm.kernels.errors import UsageError

apple = importlib.import_module("benchmarks._apple")
kernels = importlib.import_module("benchmarks.kernels")
PAGE = kernels.PAGE.read_text()


def record(device, median=480.0):
    rows = [
        {"path": path, "context": context, "median": median * context / 131_072, "share": 0.83}
        for context in (1024, 131_072)
        for path in ("MLX SDPA 16 bit", "fused")
    ]
    return {"device": device, "date": "2026-12-01", "copy_bandwidth": 350.0, "timings": rows}


@pytest.mark.parametrize("chip", sorted(apple.CHIPS))
def test_the_page_shows_what_the_roofline_predicts(chip):
    row = " | ".join((chip, *apple.predicted(chip, kernels.LLAMA, 131_072, 4.5)))
    assert f"| {row} |" in PAGE


@pytest.mark.parametrize("device", ["Apple M4 Max", "Apple M3 Ultra"])
def test_a_run_fills_in_its_own_row_and_nothing_else(device):
    chip = device.removeprefix("Apple ")
    once = kernels.with_measured(PAGE, record(device))
    twice = kernels.with_measured(once, record(device, 470.0))
    old, new = PAGE.split("\n"), twice.split("\n")
    changed = [line for line in new if line not in old]
    assert len(changed) == 1
    assert changed[0].startswith(f"| {chip} |")
    assert changed[0].endswith("| 0.47 ms, 83% of copy (350 GB/s), 2026-12-01 |")
    assert len(new) - len(old) == (chip not in apple.CHIPS)
    assert kernels.record_path(record(device)).name == f"kernels-{device.lower().replace(' ', '-')}.json"


def test_a_page_without_the_table_is_named():
    with pytest.raises(UsageError, match="no table"):
        kernels.with_measured("# nothing", record("Apple M4 Max"))


def test_a_machine_without_a_gpu_is_told_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["kernels"])
    assert kernels.main() != 0
    err = capsys.readouterr().err
    assert "uv sync --no-group cpu --group cuda" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "path", sorted((kernels.DOCS / "benchmarks").glob("kernels-*.json")), ids=lambda path: path.stem
)
def test_the_page_in_the_docs_is_the_one_that_its_record_makes(path):
    made = importlib.import_module("benchmarks._kernel_page").page(json.loads(path.read_text()), path)
    assert path.with_suffix(".md").read_text() == made


def test_a_page_says_which_goals_a_device_misses(tmp_path):
    path = sorted((kernels.DOCS / "benchmarks").glob("kernels-*.json"))[0]
    page = importlib.import_module("benchmarks._kernel_page").page
    slow = json.loads(path.read_text())
    for row in slow["timings"]:
        if row["path"] == "fused":
            row |= {"median": 4 * row["median"], "share": row["share"] / 4}
    said = page(slow, path)
    assert said.count("not met") == 4
    assert "30x faster than mlx-lm" in said


def test_what_is_no_record_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "record.json"
    for text in (None, "{", "{}"):
        if text is not None:
            path.write_text(text)
        monkeypatch.setattr("sys.argv", ["kernels", "--page", str(path)])
        with pytest.raises(SystemExit):
            kernels.main()
        assert f"{path} is no record of kernels" in capsys.readouterr().err


def test_encoders_are_checked_byte_for_byte():
    """In the host emulation, for the formats that are timed; a back-end that packs other codes is caught."""
    checks = importlib.import_module("benchmarks._kernel_checks")
    formats = kernels.FORMATS[:1] + kernels.FORMATS[5:7]
    assert [row["error"] for row in checks.encode(formats, Emulated())] == [0.0] * 3

    class Wrong(Emulated):
        def pack(self, quantizer, x):
            return super().pack(quantizer, 1.01 * x)

    assert all(row["error"] > row["limit"] for row in checks.encode(formats, Wrong()))
