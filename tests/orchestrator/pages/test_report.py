"""`swarm report`: one file that is complete, safe and well-formed."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from swarm.memory.records import Budget
from swarm.memory.store import Store

MOST_BYTES = 4_000_000


class Outline(HTMLParser):
    """Ids, links, headings, scripts and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.anchors: set[str] = set()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(found["id"])
        if tag == "a" and (found.get("href") or "").startswith("#"):
            self.anchors.add(found["href"][1:])
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))


@pytest.fixture(scope="module")
def report(template, tmp_path_factory):
    from swarm.orchestrator.pages import report as pages

    with Store.open(template, readonly=True) as store:
        return pages.build(store, store.campaigns.get())


def test_the_file_is_complete_and_loads_nothing(report):
    outline = Outline(report)
    assert len(report) < MOST_BYTES
    for tag, attributes in outline.tags:
        assert tag not in ("img", "iframe", "object", "embed", "form", "base")
        assert "src" not in attributes
        assert attributes.get("href", "#")[:1] == "#" or (tag, attributes["href"]) == ("link", "data:,")
        assert not any(name.startswith("on") or name == "style" for name in attributes)
    policy = next(a["content"] for t, a in outline.tags if t == "meta" and a.get("http-equiv"))
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_links_lead_somewhere_and_headings_are_in_order(report):
    outline = Outline(report)
    assert len(outline.ids) == len(set(outline.ids))
    assert outline.anchors <= set(outline.ids)
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))


def test_every_part_that_was_promised_is_there(report):
    ids = set(Outline(report).ids)
    assert ids >= {
        "overview", "pareto", "depth", "layers", "contrasts", "control", "predictions", "findings", "summaries",
        "lineage", "spend", "failures", "environment", "trials", "long_contexts",
    }  # fmt: skip


def test_stored_text_is_text(report):
    outline = Outline(report)
    scripts = [a for tag, a in outline.tags if tag == "script"]
    islands = re.findall(r'<script type="application/json">(.*?)</script>', report)
    assert len(islands) == sum(a.get("type") == "application/json" for a in scripts)
    for island in islands:
        json.loads(island)
    own = re.sub(r"<script[^>]*>.*?</script>", "", report, flags=re.DOTALL)
    assert "window.pwned" in own  # it is shown
    assert not re.search(r"<(script|img|b|i|a)\b[^>]*pwned", own)
    assert "{{7*7}}" in own


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("out.html", "--campaign", "day"), "unknown campaign 'day'", 2),
        (("out.html", "--store", "missing.db"), "missing.db", 1),
        (("out.txt",), "no name of an HTML file", 2),
        (("nowhere/out.html",), "No such file", 1),
    ],
)
def test_bad_input_is_one_line(cli, path, arguments, said, code):
    done = cli("report", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_the_command_writes_the_file_and_an_empty_campaign_too(cli, path):
    assert cli("report", "night.html").code == 0
    assert "<h1>night</h1>" in (path.parent / "night.html").read_text()
    with Store.open(path) as store:
        store.campaigns.create("empty", {}, Budget(trials=1), 0)
    assert cli("report", "night.html", "--campaign", "empty").code == 0
    text = (path.parent / "night.html").read_text()
    assert "<h1>empty</h1>" in text
    assert len(text) < 100_000  # no chart, so no Plotly
    assert [p.name for p in path.parent.glob("*.tmp")] == []
