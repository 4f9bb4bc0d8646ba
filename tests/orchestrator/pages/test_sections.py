"""What every section of a campaign's page keeps to, on both databases, whatever is in the store."""

from __future__ import annotations

import json
import re

import pytest
import samples

from swarm.agents.writing.references import PATTERN
from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator.pages import base, charts, markup, render
from swarm.orchestrator.pages.blocks import Chart, Charts, Paragraph, Prose, Ref, Table
from swarm.orchestrator.pages.render import cells
from swarm.orchestrator.pages.report import InFile
from swarm.orchestrator.views.source import PAGE, Bounds, Source

NAMES = [section.name for section in base.sections()]


@pytest.fixture(scope="module")
def store(place):
    with Store.open(place, readonly=True) as opened:
        yield opened


@pytest.fixture
def source(place):
    with Store.open(place, readonly=True) as store:
        yield Source(store, store.campaigns.get(), PAGE)


def section(name):
    return next(each for each in base.sections() if each.name == name)


def charts_of(blocks):
    for block in blocks:
        if isinstance(block, Chart):
            yield block
        elif isinstance(block, Charts):
            yield from block.charts


@pytest.mark.parametrize("name", NAMES)
def test_a_section_shows_what_there_is(source, name):
    import plotly.graph_objects as go

    blocks = section(name).blocks(source)
    assert blocks or name == "engines"
    for chart in charts_of(blocks):
        go.Figure(data=list(chart.data), layout=dict(chart.layout))  # refuses what Plotly does not know
        assert chart.alt
        assert chart.data
        text = render.document({"data": chart.data, "layout": chart.layout})
        assert "<" not in text
        own = re.sub(r"<br>|<extra></extra>", "", str(json.loads(text)))
        assert "<" not in own  # Plotly would read it as markup
    for block in blocks:
        if isinstance(block, Table):
            assert all(len(row) == len(block.headings) for row in block.rows)
    assert charts_of(blocks) or blocks


def test_what_leads_at_the_shortest_context_is_named_with_what_leads_at_the_longest(tmp_path):
    curves = {4: (0.01, 0.09), 8: (0.02, 0.03)}
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = samples.first_campaign(store)
        for bits, (near, far) in curves.items():
            found = {"kld_at_512": near, "kld_at_2048": far}
            samples.run_trial(store, campaign.id, metrics=found, bits=bits, protocol="context", context=2048)
            samples.run_trial(store, campaign.id, metrics={"kept": 0.5}, bits=bits, protocol="retrieval", context=2048)
        (chart,) = charts_of(section("long_contexts").blocks(Source(store, campaign, PAGE)))
    assert re.search("affine4.* leads at 512 tokens, .*affine8.* at 2048", chart.alt)
    assert [trace["x"] for trace in chart.data] == [[512, 2048]] * 2
    assert [trace["y"] for trace in chart.data] == [[0.01, 0.09], [0.02, 0.03]]
    assert len(chart.table.rows) == 4


def test_a_campaign_that_had_to_leave_long_contexts_out_says_why(tmp_path):
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("new", {"left_out": "The text is too short."}, Budget(trials=3), 0)
        (block,) = section("long_contexts").blocks(Source(store, campaign, PAGE))
    assert block.text == "The text is too short."


def test_sections_come_in_order_and_once():
    places = [each.place for each in base.sections()]
    assert places == sorted(places)
    assert len(set(NAMES)) == len(NAMES)


def test_an_empty_campaign_has_a_page(tmp_path):
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("new", {}, Budget(trials=3), 0)
        page = base.campaign_page(Source(store, campaign, PAGE))
        text = render.render("parts.html", InFile(), page)
    assert "No trial has ended yet." in text
    assert not render.has_charts(page)


def test_what_is_too_much_for_a_page_is_said_and_nothing_fails(store):
    small = Source(store, store.campaigns.get(), Bounds(trials=3))
    page = base.campaign_page(small)
    notes = [b.text for part in page.parts for b in part.blocks if isinstance(b, Paragraph) and b.tone == "warn"]
    assert any("more than 3" in note for note in notes)
    assert {part.name for part in page.parts} >= {"overview", "pareto", "findings", "spend", "failures"}


def test_a_query_that_takes_too_long_leaves_a_note(store):
    hasty = Source(store, store.campaigns.get(), Bounds(seconds=1e-3))
    slow = "SELECT a.id FROM trials a, trials b, trials c, trials d, trials e WHERE a.campaign_id = {campaign}"
    with pytest.raises(Exception, match=r"swarm query"):
        hasty.rows(slow + " ORDER BY b.id * c.id * d.id * e.id")


def test_every_number_of_a_summary_leads_to_what_it_rests_on(source):
    record = source.summaries[-1]
    prose = markup.resolved(record.summary.text, source.resolver, record.campaign_id)
    assert len(prose.inserts) == len(PATTERN.findall(record.summary.text))
    text = markup.html(prose, cells(InFile()))
    linked = re.findall(r'<a href="([^"]+)" title="[^"]+">([^<]+)</a>', text)
    assert ("#trial-1", "trial 1, kld") in re.findall(r'<a href="([^"]+)" title="([^"]+)"', text)
    assert ("#finding-1", "finding 1") in linked
    assert ("#overview", "40") in linked
    assert "[unresolved: there is no finished trial" in text
    for forbidden in ("<script", "<b ", "<img", "javascript:window.pwned=7)<", 'href="javascript', 'href="http'):
        assert forbidden not in text


@pytest.mark.parametrize("text", ["\ue0000\ue001", "\ue0005\ue001 x", "`\ue0000\ue001`"])
def test_placeholders_of_somebody_else_stand_for_nothing(text):
    assert markup.html(markup.unresolved(text), cells(InFile())).count("<a") == 0
    assert "\ue000" not in markup.unresolved(text).text
    assert markup.html(Prose("\ue00099\ue001"), cells(InFile())) == "<p></p>\n"


@pytest.mark.parametrize(
    ("values", "least"), [([1e-5, 1.0], 5), ([0.01, 0.3], 3), ([0.11, 0.14], 2), ([3.0], 1), ([], 1)]
)
def test_a_logarithmic_axis_has_ticks_around_its_values(values, least):
    ticks = charts.log_ticks(values)
    assert len(ticks) >= least
    if values:
        assert ticks[0] <= min(values) <= max(values) <= ticks[-1]


@pytest.mark.parametrize("value", [0.00778, 3.0, 0.0101])
def test_a_single_value_has_a_tick_of_its_own(value):
    ticks = charts.log_ticks([value, value])
    assert value in ticks
    assert all(other == value or abs(other / value - 1) > 0.1 for other in ticks)


def test_figures_hold_no_markup():
    trace = charts.points("<a href='javascript:x'>", [1.0, float("nan")], [1.0, 2.0], texts=["<b>", "&"])
    assert trace["name"] == "&lt;a href='javascript:x'&gt;"
    assert trace["text"] == ["&lt;b&gt;", "&amp;"]
    assert trace["x"] == [1.0, None]
    assert cells(InFile())(Ref("trial", 3, "<x>")) == '<a href="#trial-3">&lt;x&gt;</a>'


def test_speed_stands_beside_quality_where_kernels_were_timed(source):
    _, table = section("speed").blocks(source)
    assert "131,072 tokens" in table.caption
    rows = [dict(zip(table.headings, row, strict=True)) for row in table.rows]
    assert rows
    assert {(row["µs"], row["µs in 16 bit"]) for row in rows} == {(42.5, 99.0)}
    assert {row["Front"].text for row in rows} <= {"front", "beaten"}
    assert "front" in {row["Front"].text for row in rows}
