"""The Python interface: every block of its page runs as a reader would type it; rows, errors and leaving early."""

import os
import re
import sys
from pathlib import Path

import pytest

import swarm
from swarm.orchestrator.results import Rows

PAGE = Path(__file__).parents[2] / "docs" / "api.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_block_of_the_page_runs(tiny_models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SWARM_") and name != "SWARM_CACHE"]:
        monkeypatch.delenv(name)
    model = tiny_models["llama"]
    blocks = [block.replace("smollm2-135m", model) for block in BLOCK.findall(PAGE.read_text())]
    names: dict[str, object] = {}
    for block in blocks:
        if "best.json" in block:
            Path("best.json").write_text(recipe(model))
        exec(compile(block.replace("path/to/model", model), str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert "bits per value" in printed
    assert "complete" in printed
    assert "KiB of cache" in printed
    assert "affine99" in printed


def recipe(model: str) -> str:
    """What `swarm recipe` writes for the best trial of the page's campaign."""
    from swarm.memory.store import Store
    from swarm.orchestrator.recipes import of_trial

    with Store.open("night.db", readonly=True) as store:
        best = store.trials.list(model=model, protocol="quality", best="kld", limit=1)
        return of_trial(best[0], "night").text()


def test_a_notebook_shows_rows_as_a_table_and_runs_nothing_that_is_in_them():
    rows = Rows([{"statement": "<script>alert(1)</script>", "kld": 0.123456789, "n": None}])
    assert rows._repr_html_() == (
        "<table><thead><tr><th>statement</th><th>kld</th><th>n</th></tr></thead><tbody><tr>"
        "<td>&lt;script&gt;alert(1)&lt;/script&gt;</td><td>0.1235</td><td>-</td></tr></tbody></table>"
    )
    assert "Nothing" in Rows()._repr_html_()


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(swarm.SwarmError, match="polars is not installed"):
        Rows([{"a": 1}]).to_polars()


def test_an_unknown_option_is_refused_with_a_suggestion(tmp_path):
    with pytest.raises(swarm.SwarmError, match=r"'bugdet'.*Did you mean 'budget'"):
        swarm.launch(bugdet=3, store=tmp_path / "swarm.db")
    assert not list(tmp_path.iterdir())


def test_a_campaign_that_is_left_early_can_be_gone_on_with(rehearsed, tmp_path):
    with rehearsed("20", 300) as campaign:
        for event in campaign:
            if event.kind == "trial":
                break
        assert campaign.state == "running"
    assert campaign.state == "interrupted"
    with swarm.open_store(tmp_path / "swarm.db") as store:
        states = [row["state"] for row in store.trials(campaign=campaign.record.name)]
    assert "running" not in states
    assert 0 < states.count("complete") < 300


def test_a_campaign_can_be_stopped_from_its_loop(rehearsed):
    with rehearsed("20", 1000) as campaign:
        for event in campaign:
            if event.kind == "trial":
                campaign.stop()
        assert campaign.state == "interrupted"
        assert "running" not in {row["state"] for row in campaign.store.query("SELECT state FROM trials").records()}
