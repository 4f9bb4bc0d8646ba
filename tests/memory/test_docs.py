"""The page about the store: its examples run, and it names every view."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from swarm.memory import views

PAGE = Path(__file__).parents[2] / "docs" / "store.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_every_view_is_described():
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(), re.MULTILINE)) == set(views.VIEWS)


@pytest.mark.parametrize("question", blocks("sql"))
def test_questions_have_answers(store, run, question):
    run(0.1, 4.5)
    run(0.2, 8.0, protocol="depth", layers=(0, 1))
    assert len(store.query(question).rows) == 1


def test_python_runs(store, run, tmp_path, monkeypatch, capsys):
    if store.database.path is None:
        pytest.skip("the example opens a file")
    run()
    monkeypatch.chdir(store.database.path.parent)
    (code,) = blocks("python")
    exec(compile(code, str(PAGE), "exec"), {})
    assert "affine4" in capsys.readouterr().out
