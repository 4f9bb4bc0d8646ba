from __future__ import annotations

import numpy as np
import pytest

from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import (
    PATTERN,
    Resolver,
    UnresolvedError,
    shown,
)
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Effect, Finding, FindingRecord, Proposal


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


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("budget", [1, 12, 120])
def test_the_built_in_summary_stands_its_own_test(make_lab, simulate, infos, seed, budget) -> None:
    run = simulate(make_lab(seed=seed, law=lambda s: 0.8 * (s.kv.key.rotation == "random")), infos, budget, seed=seed)
    summary = run.strategy.engine.summarise(run.history)
    resolver = Resolver(run.history, AgentSettings())
    assert problems(summary.text, resolver) == []
    shown_text = resolver.render(summary.text)
    assert "unresolved" not in shown_text
    assert not PATTERN.search(shown_text)
    assert "control arm" in shown_text
    assert set(summary.evidence) <= {r.id for r in run.records}
    if budget == 120:
        assert "What the agents added" in shown_text
        assert len(shown_text.splitlines()) < 60  # a screen and a half
        assert summary.evidence


def test_a_summary_shows_that_its_ground_is_gone(make_lab, simulate, infos) -> None:
    run = simulate(make_lab(), infos, 40)
    summary = run.strategy.engine.summarise(run.history)
    lost = [r.model_copy(update={"state": "quarantined"}) for r in run.records]
    later = Resolver(History.before(40, lost, 0), AgentSettings())
    assert "[unresolved: there is no finished trial" in later.render(summary.text)


@pytest.mark.parametrize("seed", [0, 1])
def test_what_the_agents_added_is_nothing_when_they_add_nothing(make_lab, simulate, infos, seed) -> None:
    """With arms dealt out at random nearly all 95% intervals hold 0: of ten, three that do not are a 1% event."""
    run = simulate(make_lab(seed=seed), infos, 160, seed=seed, settings=AgentSettings(control_share=0.5))
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(10):
        arms = rng.permutation(["agents", "control"] * 80)
        dealt = [
            r.model_copy(update={"arm": str(arm)}) if r.arm != "defaults" else r
            for r, arm in zip(run.records, arms, strict=True)
        ]
        facts = Resolver(History.before(160, dealt, 0), AgentSettings()).facts
        wrong += not facts["control.gain.low"] <= 0 <= facts["control.gain.high"]
    assert wrong <= 2
