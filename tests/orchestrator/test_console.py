import json

import pytest

from swarm.orchestrator import console
from swarm.orchestrator.console import Column


@pytest.mark.parametrize("text", ["\x1b[31mred", "bell\x07", "\x9b31m", "a\rb", "\u202eabc"])
def test_what_a_terminal_would_obey_is_not_printed(text):
    shown = console.clean(text)
    assert not any(char in shown for char in "\x1b\x07\x9b\r\u202e")


def test_a_listing_in_a_pipe_is_aligned_lines(capsys):
    rows = [{"name": "a", "n": 1}, {"name": "long name", "n": 222}, {"name": None, "n": None}]
    console.listing(rows, [Column("name"), Column("n", right=True)], as_json=False)
    assert capsys.readouterr().out == "name         n\na            1\nlong name  222\n-            -\n"


def test_json_of_a_listing_keeps_every_key(capsys):
    console.listing([{"name": "a", "hidden": 1.5}], [Column("name")], as_json=True)
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "hidden": 1.5}]


def test_an_empty_listing_is_an_empty_list_in_json(capsys):
    console.listing([], [Column("name")], as_json=True)
    assert json.loads(capsys.readouterr().out) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.2, "0s"), (59.4, "59s"), (200, "3m20s"), (3600, "1h00m"), (7500, "2h05m")]
)
def test_durations_for_people(seconds, text):
    assert console.duration(seconds) == text


def test_an_error_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        console.fail("two\nlines\x1b[1m", "Do this.", 2)
    assert caught.value.code == 2
    assert capsys.readouterr().err == "error: two lines?[1m Do this.\n"
