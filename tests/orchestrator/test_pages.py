"""The documentation: it builds, its console and python examples run, and the notebook reads a store."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from samples import complete, finding, measurement, proposal

from swarm.memory.records import Budget, Summary
from swarm.memory.store import Store

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def steps(block: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with the lines that have to be in its output."""
    found: list[tuple[str, list[str]]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


CONSOLE = [(page, block) for page in PAGES for block in blocks(page, "console")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as after a small campaign."""
    made = tmp_path_factory.mktemp("docs")
    with Store.open(made / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("campaign-1", {}, Budget(trials=9), 0)
        for number in range(8):
            layers = {"protocol": "depth", "layers": tuple(range(number - 4))} if number > 4 else {}
            model = ("smollm2-135m", "gemma3-270m")[number % 2]
            record = store.propose(campaign.id, number, proposal(number, model, **layers))
            complete(store, store.queue.claim(record.id, "me"), measurement(kld=0.5 / (number + 1), bits=4.5))
        store.findings.upsert(campaign.id, finding(1, 2))
        text = "The best KLD is {trial:5:kld}."
        store.summaries.add(campaign.id, Summary(title="Found", text=text, evidence=(5,), author="scribe"))
        store.campaigns.finish(campaign.id, "complete")
    return made


@pytest.mark.parametrize(("page", "block"), CONSOLE, ids=[page.stem for page, _ in CONSOLE])
def test_console_examples_run(cli, folder, monkeypatch, page, block):
    monkeypatch.chdir(folder)
    for command, expected in steps(block):
        program, *words = shlex.split(command)
        assert program == "swarm"
        done = cli(*words)
        assert done.code == 0, (command, done.err)
        printed = done.out.splitlines()
        assert [line for line in expected if line not in printed] == [], command


def test_there_are_examples_to_run():
    assert len(CONSOLE) >= 5
    assert sum(len(expected) for _, block in CONSOLE for _, expected in steps(block)) >= 5


def test_the_snippet_gives_any_mlx_lm_script_a_packed_cache(tiny_models, capsys):
    (code,) = blocks(DOCS / "quickstart.md", "python")
    assert "path/to/model" in code
    given = code.replace("path/to/model", tiny_models["llama"])
    names: dict = {}
    exec(compile(given, "quickstart.md", "exec"), names)
    assert "KiB of cache" in capsys.readouterr().out
    assert {type(layer).__name__ for layer in names["cache"]} == {"PackedKVCache"}
    assert all(layer.offset > 0 for layer in names["cache"])
    plain = sum(layer.size() for layer in names["cache"]) * 2 * 2 * 32 * 2
    assert 0 < sum(layer.nbytes for layer in names["cache"]) < plain * 4


def test_the_notebook_reads_a_store_and_plots(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SWARM_STORE", str(folder / "swarm.db"))
    monkeypatch.setenv("FIGURES", str(tmp_path))
    notebook = DOCS / "notebooks" / "findings.py"
    exec(compile(notebook.read_text(), str(notebook), "exec"), {"__name__": "notebook"})
    assert "smollm2-135m" in capsys.readouterr().out
    for name in ("front", "depth"):
        assert "gemma3-270m" in (tmp_path / f"{name}.html").read_text()


def test_the_navigation_leads_to_pages_and_the_site_builds(tmp_path):
    navigation = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"^ +- .*: (\S+\.md)$", navigation, re.MULTILINE))
    assert named == {str(page.relative_to(DOCS)) for page in PAGES}
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)

    def build():
        command = [sys.executable, "-m", "zensical", "build", "--strict"]
        return subprocess.run(command, check=False, cwd=tmp_path, capture_output=True, text=True)

    done = build()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Which method" in (tmp_path / "build" / "site" / "index.html").read_text()
    (tmp_path / "docs" / "index.md").write_text("[nowhere](nowhere.md)\n")
    assert build().returncode != 0
