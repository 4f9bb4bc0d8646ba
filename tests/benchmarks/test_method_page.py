"""The table of measured errors in the guide, and which configurations stand for a method."""

import importlib

import pytest

from swarm.kernels import plugins
from swarm.kernels.errors import UsageError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import specs
from swarm.orchestrator.commands import bench

frame = importlib.import_module("benchmarks._frame")
page = importlib.import_module("benchmarks._method_page")
choice = importlib.import_module("benchmarks._method_rows")
GUIDE = bench.ROOT / "docs" / "methods.md"


def test_the_guide_holds_the_table_of_its_record(tmp_path):
    copy = tmp_path / "methods.md"
    copy.write_text(GUIDE.read_text())
    page.into_guide(frame.read(frame.DOCS / "methods.json", "methods"), copy)
    assert copy.read_text() == GUIDE.read_text()


def test_the_record_is_of_all_bundled_models_and_several_texts():
    """A method that came later is measured when the benchmark is run again."""
    models = frame.read(frame.DOCS / "methods.json", "methods")["results"]["models"]
    assert len(models) == 3
    for model in models.values():
        assert {"none", "affine", "kivi", "turboquant_mse", "polarquant", "qjl"} <= {r["method"] for r in model["rows"]}
        assert all(row["metrics"]["kld"]["n"] >= 8 for row in model["rows"])


def test_a_guide_without_a_place_for_the_table_is_refused(tmp_path):
    (tmp_path / "guide.md").write_text("# Methods\n")
    with pytest.raises(UsageError, match="no place for the table"):
        page.into_guide({"load_before": 0.0, "date": "", "git_revision": "", "device": "", "blas": "",
                         "versions": {"mlx": ""}, "results": {"models": {}}}, tmp_path / "guide.md")  # fmt: skip


@pytest.mark.parametrize(("head_dim", "key_bias"), [(64, True), (80, False), (128, False), (256, False)])
def test_rows_are_every_width_of_every_method_that_fits(head_dim, key_bias):
    rows = choice.rows(head_dim, key_bias=key_bias)
    assert len({row.label for row in rows}) == len(rows)
    for row in rows:
        for spec in (row.kv.key, row.kv.value):
            base.method(spec.method).check_head_dim(spec, head_dim)
    for name in plugins.names(base.PACKAGE) if head_dim != 80 else ("none", "polarquant", "turboquant_mse"):
        fitting = {spec.bits for spec in specs(name, head_dim)}
        assert {row.kv.key.bits for row in rows if row.method == name} == fitting
    assert any(row.kv.key_bias == "subtract" for row in rows) == key_bias
