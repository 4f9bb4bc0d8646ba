"""The pages as a person has them: in Chromium, with charts that draw, reviews that count, text that stays text."""

from __future__ import annotations

import functools
import http.server
import threading

import pytest
import samples

from swarm.memory.records import Budget
from swarm.memory.store import Store
from swarm.orchestrator.pages import report

CHARTS = """return [...document.querySelectorAll('.plot')].map(plot => plot.dataset.drawn === 'yes'
    && plot.querySelectorAll('.scatterlayer path, .heatmaplayer image, .barlayer path').length > 0)"""
PWNED = "return window.pwned ?? null"
WIDTH = "return document.documentElement.scrollWidth"
FETCHED = "return performance.getEntriesByType('resource').map(entry => entry.name)"
CONTRAST = """
const luminance = (text) => {
  const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(Number).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (element) => {
  for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor;
    if (!/, 0\\)$|transparent/.test(colour)) return colour;
  }
};
let worst = 99;
for (const element of document.querySelectorAll('h1, h2, p, th, td, a, .tag, .faint, .remark, code, button, summary')) {
  const a = luminance(getComputedStyle(element).color), b = luminance(behind(element) ?? 'rgb(255,255,255)');
  worst = Math.min(worst, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return worst;
"""
LEGIBLE = 4.5
"""Contrast of text that WCAG 2 asks for at level AA."""


@pytest.fixture(scope="module")
def report_file(template, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "night.html"
    with Store.open(template, readonly=True) as store:
        path.write_text(report.build(store, store.campaigns.get()))
    return path


def test_a_report_draws_and_asks_nobody(browser, report_file):
    browser.open(report_file.as_uri())
    drawn = browser.run(CHARTS)
    assert len(drawn) >= 10
    assert all(drawn)
    assert browser.run(FETCHED) == []
    assert browser.run(PWNED) is None
    assert browser.console() == []
    for width, dark in ((1280, False), (390, True)):
        browser.view(width, dark=dark)
        assert browser.run(WIDTH) == width
        assert browser.run(CONTRAST) >= LEGIBLE
    browser.run("document.getElementById('theme').click(); document.getElementById('theme').click()")
    assert browser.run("return document.documentElement.dataset.theme") == "dark"
    paper = browser.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})
    assert len(paper["data"]) > 50_000


def test_a_link_into_a_folded_table_opens_it(browser, report_file):
    browser.open(f"{report_file.as_uri()}#trial-3")
    assert browser.run("return document.getElementById('trial-3').closest('details').open")


def enter(browser, site) -> None:
    browser.open(site.url, charts=False)
    browser.wait(
        lambda: browser.driver.current_url == f"{site.origin}/" and browser.run("return !!document.querySelector('h1')")
    )


def test_pages_draw_and_stored_text_does_nothing(browser, serve, path):
    own = serve(str(path))
    enter(browser, own)
    for page, charts in (("/campaigns/1", 10), ("/trials/33", 2), ("/trials/1", 1), ("/findings/1", 1)):
        browser.open(own.origin + page)
        drawn = browser.run(CHARTS)
        assert len(drawn) >= charts
        assert all(drawn)
        assert browser.run(PWNED) is None
    for page in ("/", "/findings?q=plateau", "/summaries/1", "/campaigns/1/trials"):
        browser.open(own.origin + page, charts=False)
        assert browser.run(PWNED) is None
        browser.view(390, dark=True)
        assert browser.run(WIDTH) == 390
        browser.view(1280, dark=False)
    assert browser.console() == []
    # A foreign text that reached a page would still not run: the policy stops it.
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned=9\">')")
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.pwned=10'; document.body.append(s)"
    )
    assert browser.run(PWNED) is None


def test_a_click_reviews_a_summary(browser, serve, path):
    own = serve(str(path))
    enter(browser, own)
    browser.open(f"{own.origin}/summaries/1", charts=False)
    browser.run("document.querySelector('textarea[name=note]').value = 'Replicated.'")
    browser.run("document.querySelector('input[name=reviewer]').value = 'ada'")
    browser.run("document.querySelector('button[value=accept]').click()")
    browser.wait(lambda: browser.driver.current_url.endswith("#reviews"))
    with Store.open(path, readonly=True) as store:
        record = store.summaries.get(1)
    assert (record.summary.state, record.reviewer, record.note) == ("accepted", "ada", "Replicated.")


def test_a_running_campaign_keeps_its_page_up_to_date(browser, serve, path):
    own = serve(str(path))
    with Store.open(path) as store:
        campaign = store.campaigns.create("running", {"models": ["alpha"]}, Budget(trials=4), 0)
        measure(store, campaign.id, 0)
    enter(browser, own)
    browser.open(f"{own.origin}/campaigns/running")
    browser.run("window.same = 1")
    assert "1 of 4" in browser.run("return document.querySelector('.tiles').textContent")
    with Store.open(path) as store:
        measure(store, campaign.id, 1)
    browser.wait(lambda: "2 of 4" in browser.run("return document.querySelector('.tiles').textContent"))
    assert browser.run("return window.same") == 1  # without loading the page again
    assert all(browser.run(CHARTS))


def measure(store, campaign, number) -> None:
    trial = store.propose(campaign, number, samples.proposal(number, bits=3 + number))
    samples.complete(
        store, store.queue.claim(trial.id, "worker"), samples.measurement(0.1 / (1 + number), 4.0 + number)
    )


HOSTILE_PAGE = """<!doctype html><title>other</title><iframe src="{site}/summaries/1"></iframe>
<form method="post" action="{site}/summaries/1/review" target="sink"><input name="verdict" value="accept">
<input name="csrf" value="x"></form><iframe name="sink"></iframe><script>
(async () => {{
  const seen = [];
  for (const options of [{{credentials: 'include'}}, {{mode: 'no-cors', credentials: 'include'}}, {{}}]) {{
    try {{
      const answer = await fetch('{site}/campaigns/1', options);
      seen.push(answer.type === 'opaque' ? 'opaque' : await answer.text());
    }} catch (error) {{ seen.push('refused'); }}
  }}
  await new Promise((done) => {{
    const script = document.createElement('script');
    script.onload = () => {{ seen.push('loaded'); done(); }};
    script.onerror = () => {{ seen.push('refused'); done(); }};
    script.src = '{site}/static/app.js';
    document.body.append(script);
  }});
  document.forms[0].submit();
  window.seen = seen;
}})();
</script>"""


def test_another_site_in_the_same_browser_gets_nothing(browser, serve, path, tmp_path):
    own = serve(str(path))
    enter(browser, own)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "index.html").write_text(HOSTILE_PAGE.format(site=own.origin))
    handler = functools.partial(Quiet, directory=str(tmp_path / "other"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            # `localhost` is another site than 127.0.0.1, and so is another port another origin.
            for host in ("localhost", "127.0.0.1"):
                browser.open(f"http://{host}:{other.server_address[1]}/", charts=False)
                seen = browser.wait(lambda: browser.run("return window.seen ?? null"))
                assert all(answer == "refused" for answer in seen), seen
                browser.wait(lambda: browser.run("return frames.length") == 2)
                inside = browser.run("try { return frames[0].document.body.textContent } catch { return 'closed' }")
                assert "What was found" not in (inside or "")
        finally:
            other.shutdown()
            thread.join()
    with Store.open(path, readonly=True) as store:
        assert store.summaries.get(1).summary.state == "pending"


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        pass
