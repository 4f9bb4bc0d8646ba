from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from swarm.agents.analysis.claims import Claim, by_token, token
from swarm.agents.analysis.pairs import MAX_BITS_APART
from swarm.agents.analysis.results import config_key
from swarm.agents.history import History
from swarm.agents.published_claims.plan import AUTHOR as AGENDA
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import (
    MAX_WORDS,
    PATTERN,
    Resolver,
    UnresolvedError,
    shown,
)
from swarm.agents.writing.summary import body, summarise
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Effect, Finding, FindingRecord, Proposal, Summary
from swarm.memory.store import Store
from swarm.orchestrator.cli import main
from swarm.orchestrator.views.source import Source

RELEASE = Path(__file__).parents[2] / "memory" / "releases" / "0.1.0.db.gz"


def affine(bits: int) -> KVSpec:
    spec = QuantSpec(method="affine", bits=bits)
    return KVSpec(key=spec, value=spec)


@pytest.fixture
def resolver(make_lab) -> Resolver:
    lab = make_lab()
    specs = [TrialSpec(model="alpha", kv=affine(bits)) for bits in (8, 4, 3)]
    specs += [TrialSpec(model="alpha", kv=affine(4), protocol="attention")]
    records = [lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)]
    lost = lab.run(4, Proposal(spec=TrialSpec(model="alpha", kv=affine(2)), proposer="test"))
    running = lost.model_copy(update={"id": 6, "number": 5, "state": "running", "metrics": {}})
    lost = lost.model_copy(update={"state": "failed", "outcome": "nan", "metrics": {}, "arrays": {}})
    effect = Effect(name="KLD ratio", value=0.5, low=0.25, high=0.75, unit="ratio")
    finding = Finding(
        kind="sensitivity",
        key="k",
        statement="On alpha [x4] wins.",
        models=("alpha",),
        effect=effect,
        evidence=(1, 2),
        author="t",
        status="confirmed",
    )
    bare = finding.model_copy(update={"key": "l", "effect": None})
    findings = [FindingRecord(id=n, campaign_id=1, finding=f) for n, f in ((7, finding), (8, bare))]
    return Resolver(History((*records, lost, running), findings=tuple(findings)), AgentSettings())


def test_references_resolve_to_what_the_store_holds(resolver) -> None:
    trial = resolver.history.records[1]
    text = "{trial:2} {trial:2:label} {trial:2:model} {finding:7:value} {finding:7:status} {fact:trials.failed}"
    assert resolver.render(text) == "trial 2 KV affine4/g64 alpha 0.5 confirmed 1"
    assert resolver.number("trial:2:kld") == trial.metrics["kld"].value
    assert resolver.render("{finding:7:effect}") == "KLD ratio 0.5 [0.25, 0.75]"
    assert resolver.render("{finding:8:effect}") == "no effect size"


@pytest.mark.parametrize(
    "reference",
    ["trial:99:kld", "trial:x:kld", "trial:2:beauty", "trial:6:kld", "finding:1:value", "finding:8:value",
     "finding:7:evidence", "fact:nothing", "trial:5:kld", "trial:-1:kld"],
)  # fmt: skip
def test_invented_references_are_refused_and_marked(resolver, reference) -> None:
    with pytest.raises(UnresolvedError):
        resolver.number(reference)
    assert "[unresolved:" in resolver.render(f"It is {{{reference}}}.")
    assert problems(f"It is {{{reference}}}.", resolver)


def test_numbers_are_shown_with_three_digits() -> None:
    assert [shown(x) for x in (3.0, 0.123456, 1234.5678, 1e-7, 123456789.0)] == [
        "3", "0.123", "1.23e+03", "1e-07", "1.23e+08"
    ]  # fmt: skip


GOOD = [
    "The 4-bit cache of alpha reached {trial:2:kld} nat.",
    "{trial:1:kld} is lower than {trial:3:kld}.",
    "The KLD {trial:3:kld} is higher than {trial:1:kld} on alpha.",
    "{finding:7:statement} {finding:7:effect}.",
    "1. q4_0 and mxfp4 were tried.",
    "| {trial:2:label} | {trial:2:bits_per_value} |",
    "# alpha",
]
BAD = {
    "The KLD is 0.01.": "number",
    "It took 40% off.": "number",
    "It is twice as good.": "quantity",
    "Half of the error is gone.": "quantity",
    "A tenfold gain.": "quantity",
    "Trial 12 shows it.": "number",
    "{trial:3:kld} is lower than {trial:1:kld}.": "contradict",
    "{trial:1:kld} is higher than {trial:3:kld}.": "contradict",
    "{trial:1:kld} is not higher than {trial:3:kld}.": "cannot be checked",
    "{trial:1:kld} is better, lower than {trial:3:kld}.": "cannot be checked",
    "affine beats kivi.": "two trials",
    "{finding:7} shows that alpha is worse.": "two trials",
    "{trial:1:kld} is lower than {trial:3:bits_per_value}.": "two trials",
    "{trial:2:kld} is lower than {trial:4:kld}.": "",
    "Look {here}.": "brace",
    "{trial:1:kld": "brace",
}


@pytest.mark.parametrize("text", GOOD)
def test_carried_sentences_pass(resolver, text) -> None:
    assert problems(text, resolver) == []


@pytest.mark.parametrize("text", sorted(BAD))
def test_uncarried_sentences_are_refused_with_a_reason(resolver, text) -> None:
    found = problems(f"A good sentence. {text}", resolver)
    assert len(found) == 1
    assert BAD[text] in found[0]


def test_differences_within_the_noise_are_no_claims(make_lab) -> None:
    kvs = [affine(4), affine(4).model_copy(update={"sink_tokens": 4})]
    refused = 0
    for seed in range(20):
        lab = make_lab(seed=seed, noise=0.4)
        records = [lab.run(n, Proposal(spec=TrialSpec(model="a", kv=kv), proposer="t")) for n, kv in enumerate(kvs)]
        low, high = sorted(records, key=lambda r: r.metrics["kld"].value)
        found = problems(
            f"{{trial:{low.id}:kld}} is lower than {{trial:{high.id}:kld}}.",
            Resolver(History(tuple(records)), AgentSettings()),
        )
        refused += bool(found)
    assert refused >= 17


def readable(summary: Summary, resolver: Resolver) -> str:
    """The summary as it is shown, once nothing is wrong with it: short sentences, equal costs, words beside labels."""
    assert problems(summary.text, resolver) == []
    shown_text = resolver.render(summary.text)
    assert "unresolved" not in shown_text
    assert not PATTERN.search(shown_text)
    for line in re.split(r"[\n|]", shown_text):
        for sentence in re.split(r"(?<=[.!?])\s", line):
            assert len(sentence.split()) <= MAX_WORDS, sentence
    bits = {
        (token(r.spec.model), config_key(r.spec)): r.metrics["bits_per_value"].value
        for r in resolver.history.records
        if "bits_per_value" in r.metrics
    }
    for identity in set(re.findall(r"\{finding:(\d+)", body(summary.text))):
        claim = Claim.parse(resolver.finding(identity).key)
        if claim is not None and resolver.finding(identity).author != AGENDA:
            for model in claim.models:
                costs = [bits[model, key] for key in claim.configurations if (model, key) in bits]
                assert max(costs, default=0.0) - min(costs, default=0.0) <= MAX_BITS_APART + 0.01
    for trial in re.findall(r"\{trial:(\d+):label\}", summary.text):
        assert f"{{trial:{trial}:words}}" in summary.text
    return shown_text


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budget", [1, 12, 120])
def test_the_built_in_summary_stands_its_own_test(make_lab, simulate, infos, seed, budget) -> None:
    run = simulate(make_lab(seed=seed, law=lambda s: 0.8 * (s.kv.key.rotation == "random")), infos, budget, seed=seed)
    summary = run.strategy.engine.summarise(run.history)
    shown_text = readable(summary, Resolver(run.history, AgentSettings()))
    assert "control arm" in shown_text
    assert set(summary.evidence) <= {r.id for r in run.records}
    if budget == 120:
        assert "What the agents added" in shown_text
        assert len(body(shown_text).splitlines()) < 80  # two screens
        assert all(f"On **{info.name}** use `" in shown_text for info in infos)
        assert all(f"| finding {f.id} |" in shown_text for f in run.history.findings)
        assert summary.evidence


def test_the_summary_of_a_campaign_of_the_first_release_can_be_read(tmp_path) -> None:
    """A store of real trials, whose findings were stated when costs did not count."""
    path = tmp_path / "old.db"
    path.write_bytes(gzip.decompress(RELEASE.read_bytes()))
    with Store.open(path) as store:
        for campaign in store.campaigns.list():
            resolver = Source(store, campaign).resolver
            readable(summarise(resolver.history, campaign.settings["models"], AgentSettings()), resolver)


@pytest.mark.slow
@pytest.mark.parametrize(("models", "seed"), [("smollm2-135m", 1), ("smollm2-135m,gemma3-270m", 2)])
def test_the_summaries_of_real_campaigns_can_be_read(tmp_path, models, seed) -> None:
    store_path = str(tmp_path / "real.db")
    launched = ["launch", "--models", models, "--budget", "40", "--seed", str(seed), "--store", store_path]
    assert main(launched) == 0
    with Store.open(store_path) as store:
        resolver = Source(store, store.campaigns.get()).resolver
        for record in store.summaries.list(store.campaigns.get().id):
            assert "## What to use" in readable(record.summary, resolver)


def test_findings_on_unequal_costs_are_not_told(make_lab) -> None:
    lab = make_lab()
    specs = [TrialSpec(model="alpha", kv=affine(bits)) for bits in (8, 4)]
    specs.append(TrialSpec(model="alpha", kv=affine(4).model_copy(update={"sink_tokens": 4})))
    records = tuple(lab.run(n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs))
    found = History(records).results()
    keys = [config_key(spec) for spec in specs]
    effect = Effect(name="KLD ratio", value=0.5, low=0.25, high=0.75, unit="ratio")
    claims = [Claim("pair", "kld", (keys[0], keys[n]), ("alpha",)) for n in (1,)]
    claims.append(Claim("pair", "kld", (keys[2], keys[1]), ("alpha",)))
    stated = [claim.finding(by_token(found), f"Claim {n}.", effect, "t") for n, claim in enumerate(claims)]
    stored = [FindingRecord(id=n, campaign_id=1, finding=f) for n, f in enumerate(stated, 1)]
    text = summarise(History(records, findings=tuple(stored)), ["alpha"], AgentSettings()).text
    assert "{finding:1" not in text
    assert "{finding:2:says}" in text
    again = Claim("transfer", "kld", claims[1].configurations, ("beta", "alpha"))
    same = stated[1].model_copy(update={"key": again.key, "kind": "transfer", "models": ("beta", "alpha")})
    stored.append(FindingRecord(id=3, campaign_id=1, finding=same))
    text = summarise(History(records, findings=tuple(stored)), ["alpha"], AgentSettings()).text
    assert [f"- {{finding:{n}:says}}" in text for n in (2, 3)].count(True) == 1, "one comparison is told once"
    assert all(f"| {{finding:{n}}} |" in text for n in (2, 3))


def test_long_statements_are_told_in_short_sentences(resolver) -> None:
    long = "On alpha outlier channels are why [A] beats [B]: " + "word " * 24 + "end."
    endless = "so " * 40 + "on."
    finding = resolver.finding("7").model_copy(update={"statement": f"{long} {endless}"})
    rows = (FindingRecord(id=1, campaign_id=1, finding=finding),)
    told = Resolver(History(resolver.history.records, findings=rows), AgentSettings()).render("{finding:1:says}")
    assert told.startswith("On alpha outlier channels are why [A] beats [B]. Word word")
    assert max(len(sentence.split()) for sentence in re.split(r"(?<=[.!?])\s", told)) <= MAX_WORDS
    assert told.endswith("so ...")


def test_a_summary_shows_that_its_ground_is_gone(make_lab, simulate, infos) -> None:
    run = simulate(make_lab(), infos, 40)
    summary = run.strategy.engine.summarise(run.history)
    lost = [r.model_copy(update={"state": "quarantined"}) for r in run.records]
    later = Resolver(History.before(40, lost, 0), AgentSettings())
    assert "[unresolved: there is no finished trial" in later.render(summary.text)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_what_the_agents_added_is_nothing_when_they_add_nothing(make_lab, simulate, infos, seed) -> None:
    """With arms dealt out at random nearly all 95% intervals hold 0: of ten, three that do not are a 1% event."""
    run = simulate(make_lab(seed=seed), infos, 220, seed=seed, settings=AgentSettings(control_share=0.5))
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(10):
        arms = rng.permutation(["agents", "control"] * 110)
        dealt = [
            r.model_copy(update={"arm": str(arm)}) if r.arm != "defaults" else r
            for r, arm in zip(run.records, arms, strict=True)
        ]
        facts = Resolver(History.before(220, dealt, 0), AgentSettings()).facts
        wrong += not facts["control.gain.low"] <= 0 <= facts["control.gain.high"]
    assert wrong <= 2
