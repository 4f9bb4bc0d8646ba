"""`swarm dashboard`: its pages, who gets them, and reviews."""

from __future__ import annotations

import re
import signal
import time

import pytest
import samples
from pages_samples import HOSTILE

from swarm.memory.records import Budget
from swarm.memory.store import Store

PAGES = {
    "/": "night",
    "/campaigns/1": "At a glance",
    "/campaigns/night": "Pareto fronts",
    "/campaigns/1/trials": "Trials of night",
    "/campaigns/1/trials?model=alpha&protocol=quality&state=complete&order=kld": "affine8",
    "/campaigns/1/trials?after=20": "Trials of night",
    "/trials/1": "swarm reproduce 1 --store",
    "/trials/33": "G by layer and query head",
    "/trials/39": "kld &lt;= 0.9 × that of trial 1",
    "/trials/40": "Nothing was measured.",
    "/findings": "1 contrast",
    "/campaigns/1/trials?model=%00%27": "Trials of night",
    '/findings?q=%00plateau%27"*': "Findings with",
    "/findings?q=plateau": "Findings with “plateau”",
    "/findings?q=nothing+has+these+words": "No such findings.",
    "/findings?status=refuted&campaign=night": "No such findings.",
    "/findings/1": "What it led to",
    "/recommend": "Choose a model",
    "/recommend?model=smollm2-135m&bits=16": "16 bit fits",
    "/recommend?model=smollm2-135m&memory=2&context=2K": "of cache",
    "/recommend?model=smollm2-135m&bits=%3Cb%3E": "bits &#39;&lt;b&gt;&#39; is no number",
    "/recommend?model=%3Cscript%3E&bits=4": "unknown model &#39;&lt;script&gt;&#39;",
    "/summaries/1": "Accept",
}
MISSING = {
    "/nothing": 404,
    "/trials/999": 404,
    "/trials/99999999999999999999": 404,
    "/findings/999": 404,
    "/summaries/999": 404,
    "/campaigns/day": 404,
    "/campaigns/day/trials": 404,
    "/campaigns/1/trials?state=odd": 404,
    "/campaigns/1/trials?order=odd": 404,
    "/campaigns/1/trials?after=x": 400,
    "/campaigns/%00": 404,
    "/findings?status=odd": 404,
    "/findings?campaign=day": 404,
    "/static/../guard.py": 404,
    "/static/%2e%2e%2fguard.py": 404,
}


@pytest.fixture(scope="module")
def site(place, serve):
    return serve(place)


def test_pages_show_what_is_in_the_store(site):
    cookie = site.enter()
    for page, said in PAGES.items():
        answer = site.ask(page, cookie=cookie)
        assert answer.status == 200, page
        assert said in answer.text, page
        assert answer.text.count("<h1>") == 1
        assert not re.search(r"<(script|img|b|i|a)\b[^>]*pwned", answer.text), page
    assert site.ask("/trials/1.json", cookie=cookie).text.startswith('{"id":1,')


def test_what_there_is_not_is_said_in_one_sentence(site):
    cookie = site.enter()
    for page, status in MISSING.items():
        answer = site.ask(page, cookie=cookie)
        assert answer.status == status, page
        assert "Traceback" not in answer.text


def test_links_of_pages_lead_to_pages(site):
    cookie = site.enter()
    seen: set[str] = set()
    for page in ("/", "/campaigns/1", "/trials/35", "/findings/1", "/summaries/1"):
        seen |= set(re.findall(r'href="(/[^"#?]*)', site.ask(page, cookie=cookie).text))
    several = sorted(path for path in seen if not path.startswith("/static/"))
    assert len(several) > 20
    for path in several[::4]:
        assert site.ask(path, cookie=cookie).status == 200, path


def test_an_empty_store_has_a_page(tmp_path, serve):
    Store.open(tmp_path / "empty.db", create=True).close()
    site = serve(str(tmp_path / "empty.db"))
    assert "There are no campaigns" in site.get("/").text
    assert site.get("/findings").status == 200
    assert site.get("/campaigns/1").status == 404


def test_nobody_gets_anything_without_the_token(site):
    cookie = site.enter()
    name = cookie.partition("=")[0]
    for page in ("/", "/campaigns/1", "/static/app.js", "/static/plotly.js", "/trials/1.json", "/nothing"):
        for given in (None, f"{name}=wrong", f"{name}=", "other=1", "\x7f;=;", cookie.replace("swarm-", "swarm-1")):
            answer = site.ask(page, cookie=given)
            assert answer.status == 401, (page, given)
            assert len(answer.text) < 200
    assert site.ask("/?token=wrong").status == 401
    assert site.ask("/?token=").status == 401
    assert site.ask(f"/?token={site.guard.token}&token=wrong").status == 401


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_see(site):
    answer = site.ask(f"/findings?q=a%20b&token={site.guard.token}")
    assert answer.status == 200
    assert answer.headers["refresh"] == "0; url=/findings?q=a+b"
    assert re.fullmatch(rf"swarm-{site.port}=\S+; HttpOnly; Path=/; SameSite=strict", answer.headers["set-cookie"])
    assert site.guard.token not in answer.headers["set-cookie"]
    assert site.ask(f"//evil.example/?token={site.guard.token}").headers["refresh"] == "0; url=/evil.example/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil:{port}", ""]
)
def test_a_name_that_somebody_points_at_us_gets_nothing(site, host):
    answer = site.ask("/", cookie=site.enter(), Host=host.format(port=site.port))
    assert (answer.status, "night" in answer.text) == (421, False)


@pytest.mark.parametrize("host", ["localhost:{port}", "LOCALHOST:{port}", "[::1]:{port}"])
def test_our_other_names_are_ours(site, host):
    assert site.ask("/", cookie=site.enter(), Host=host.format(port=site.port)).status == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1:{port}"])
def test_another_origin_gets_nothing(site, origin):
    answer = site.ask("/", cookie=site.enter(), Origin=origin.format(port=site.port))
    assert (answer.status, "night" in answer.text) == (403, False)


def test_every_answer_forbids_what_pages_do_not_need(site):
    cookie = site.enter()
    for answer in (site.ask("/"), site.ask("/", cookie=cookie), site.ask("/static/app.js", cookie=cookie)):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


def review(site, form, **headers):
    sent = {"csrf": site.guard.csrf, "reviewer": "ada", "note": "", **form}
    return site.ask("/summaries/1/review", cookie=site.enter(), form=sent, **{"Origin": site.origin, **headers})


def test_a_review_is_recorded_with_its_reviewer(serve, path):
    own = serve(str(path))
    assert review(own, {"verdict": "accept", "note": HOSTILE}).status == 303
    assert review(own, {"verdict": "note", "note": "A second look.", "reviewer": ""}).status == 303
    with Store.open(path, readonly=True) as store:
        record = store.summaries.get(1)
        assert [row["state"] for row in store.query("SELECT state FROM reviews").records()] == ["accepted"] * 2
    assert (record.summary.state, record.reviewer, record.note) == ("accepted", "root <b>", "A second look.")
    text = own.get("/summaries/1").text
    assert "A second look." in text
    assert not re.search(r"<(script|img|b|i|a)\b[^>]*pwned", text)


@pytest.mark.parametrize(
    ("form", "headers", "status"),
    [
        ({"verdict": "accept", "csrf": "wrong"}, {}, 400),
        ({"verdict": "accept", "csrf": ""}, {}, 400),
        ({"verdict": "adore"}, {}, 404),
        ({}, {}, 404),
        ({"verdict": "note"}, {}, 400),
        ({"verdict": "accept", "note": "x" * 70_000}, {}, 400),
        ({"verdict": "accept"}, {"Origin": "http://evil.example"}, 403),
        ({"verdict": "accept"}, {"Origin": "null"}, 403),
    ],
)
def test_a_form_that_is_not_ours_changes_nothing(serve, path, form, headers, status):
    own = serve(str(path))
    assert review(own, form, **headers).status == status
    with Store.open(path, readonly=True) as store:
        assert store.summaries.get(1).summary.state == "pending"


def test_a_form_without_an_origin_changes_nothing(serve, path):
    own = serve(str(path))
    form = {"csrf": own.guard.csrf, "verdict": "accept"}
    assert own.ask("/summaries/1/review", cookie=own.enter(), form=form).status == 403
    with Store.open(path, readonly=True) as store:
        assert store.summaries.get(1).summary.state == "pending"


def test_a_page_is_sent_again_only_when_the_store_has_changed(serve, path):
    own = serve(str(path))
    cookie = own.enter()
    first = own.ask("/campaigns/1", cookie=cookie)
    again = own.ask("/campaigns/1", cookie=cookie, If_None_Match=first.headers["etag"])
    assert (again.status, again.text) == (304, "")
    with Store.open(path) as store:
        trial = store.propose(1, store.campaigns.get(1).next_number, samples.proposal(50))
        samples.complete(store, store.queue.claim(trial.id, "worker"), samples.measurement(0.0001, 2.0))
    fresh = own.ask("/campaigns/1", cookie=cookie, If_None_Match=first.headers["etag"])
    assert fresh.status == 200
    assert f"/trials/{trial.id}" in fresh.text


def test_a_page_of_a_running_campaign_asks_for_news(serve, path):
    own = serve(str(path))
    with Store.open(path) as store:
        store.campaigns.create("running", {}, Budget(trials=2), 0)
    assert "data-every" in own.get("/campaigns/running").text
    assert "data-every" not in own.get("/campaigns/night").text


def test_a_store_that_goes_away_is_an_error_page(serve, path):
    own = serve(str(path))
    own.get("/")
    path.rename(path.with_name("gone.db"))
    answer = own.get("/summaries/1")
    posted = review(own, {"verdict": "accept"})
    assert posted.status == 503
    assert "What went wrong" in posted.text
    assert "gone" not in posted.text
    assert answer.status in (200, 503)


def test_the_command_prints_its_address_and_ends_on_ctrl_c(start, path):
    running = start("dashboard", "--port", "0", "--no-browser", "--store", str(path))
    line = running.process.stdout.readline()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=\S{40,}\n", line), running.end()
    time.sleep(0.1)
    code, _, err = running.end(signal.SIGINT)
    assert code == 0
    assert "Traceback" not in err
    assert "Stopped." in err


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--store", "missing.db"), "missing.db", 1),
        (("--host", "no such host"), "no address", 1),
        (("--host", "192.0.2.1"), "nothing can listen on 192.0.2.1", 1),
        (("--port", "99999"), "65535", 2),
    ],
)
def test_bad_input_is_one_line(cli, path, arguments, said, code):
    done = cli("dashboard", "--no-browser", *arguments)
    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert done.err.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(cli, serve, path):
    own = serve(str(path))
    done = cli("dashboard", "--no-browser", "--port", str(own.port))
    assert done.code == 1
    assert "--port" in done.err
