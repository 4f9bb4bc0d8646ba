from __future__ import annotations

from collections import Counter
from math import log

import pytest

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.published_claims import schema
from swarm.agents.published_claims.plan import AgendaPlan, verdict
from swarm.agents.published_claims.schema import NEEDED, AgendaError, PublishedClaim
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import Resolver
from swarm.experiments.identity import fingerprint
from swarm.experiments.space.search_space import Space
from swarm.experiments.spec import Metric
from swarm.kernels.errors import UnknownNameError
from swarm.memory.records import Effect, Proposal

LIMIT_TEST = 'test = "threshold"\ncomparator = "<="\n'
HEAD = 'title = "t"\n[[claim]]\nid = "x"\nsays = "s"\n'
LIMIT = HEAD + LIMIT_TEST


@pytest.fixture
def models(make_info):
    learned = make_info("learned", head_dim=256, n_layers=8).model_copy(update={"scale_kind": "learned"})
    return [make_info("plain", head_dim=64, n_layers=8), learned, make_info("biased", n_layers=8, key_bias=True)]


def published(models, text: str | None = None, tmp_path=None) -> AgendaPlan:
    if text is None:
        agenda = schema.load("open-tq-metal")
    else:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        agenda = schema.load(str(path))
    space = Space(models)
    return AgendaPlan(agenda, {i.name: i for i in models}, {i.name: space.defaults(i)[0] for i in models})


def carried_out(plan: AgendaPlan, lab, limit: int = 10_000) -> History:
    records = []
    for _case, spec, prediction in plan.wanted(History(())):
        if len(records) == limit:
            break
        if all(spec != r.spec for r in records):
            proposal = Proposal(spec=spec, proposer="agenda", prediction=prediction)
            records.append(attended(lab, lab.run(len(records), proposal)))
    return History(tuple(records))


def attended(lab, record):
    """Adds what attention and top-1 measurements carry."""
    spec = record.spec
    windows = record.arrays.get("window_kld", ())
    arrays, metrics = dict(record.arrays), dict(record.metrics)
    if spec.protocol == "attention":
        g = tuple(0.1 * spec.logit_gain * (1 + 0.01 * i) for i in range(len(windows)))
        kl = tuple(0.5 * x**2 for x in g)
        arrays |= {"window_g": g, "window_attention_kl": kl}
        metrics |= {n: Metric(name=n, value=sum(s) / len(s), n=len(s)) for n, s in (("g", g), ("attention_kl", kl))}
    top = tuple(max(0.0, 1 - x) for x in windows)
    arrays["window_same_top1"] = top
    metrics["same_top1"] = Metric(name="same_top1", value=sum(top) / len(top), n=len(top), stderr=0.01)
    return record.model_copy(update={"arrays": arrays, "metrics": metrics})


def verdicts(plan, history) -> dict[tuple[str, tuple[str, ...]], str]:
    return {(f.key.split(":")[2], f.models): f.status for f in plan.findings(history)}


@pytest.mark.parametrize("name", schema.names())
def test_shipped_agendas_are_lawful_and_can_be_run(name, models) -> None:
    agenda = schema.load(name)
    space = Space(models)
    plan = AgendaPlan(agenda, {i.name: i for i in models}, {i.name: space.defaults(i)[0] for i in models})
    assert plan.untestable == {}
    specs = [spec for _, spec, _ in plan.wanted(History(()))]
    assert specs
    assert {s.replicate for s in specs} == set(range(agenda.replicates))
    assert all(s.seed == s.replicate for s in specs)
    assert len({fingerprint(s) for s in specs}) > 50


def test_the_shipped_claims_use_every_test() -> None:
    assert {claim.test for claim in schema.load("open-tq-metal").claim} == set(NEEDED)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_published_claims_come_out_as_the_truth_is(make_lab, models, seed) -> None:
    """In this world keys matter more, error is proportional to depth, the bias ruins int4, and angles are harmless."""

    def law(spec) -> float:
        found = 0.0
        if spec.model == "biased" and spec.kv.key.method == "affine" and spec.kv.key_bias == "keep":
            found += 6.0
        if spec.kv.key.rotation == "hadamard":
            found += 0.4
        return found + 2 * log(spec.logit_gain)

    # Equivalence within 5% is only decidable where trials are as repeatable as real ones.
    lab = make_lab(seed=seed, law=law, noise=0.01)
    lab.n_layers = dict.fromkeys(("plain", "learned", "biased"), 8)
    plan = published(models)
    history = carried_out(plan, lab)
    found = verdicts(plan, history)
    assert found["keys-need-more", ("plain",)] == "confirmed"
    assert found["gain-drives-error", ("learned",)] == "confirmed"
    assert found["scale-is-only-g", ("plain",)] == "confirmed"
    assert found["rotation-helps-int3", ("plain",)] == "refuted"
    assert found["bias-subtraction-heals", ("biased",)] == "confirmed"
    assert found["key-bias-breaks-int4", ("biased",)] == "confirmed"
    assert found["int4-keeps-top1", ("plain",)] == "confirmed"
    assert found["angular-turbo", ("learned", "plain")] == "refuted"
    assert found["law-of-g", ("plain",)] == "confirmed"
    assert found["error-compounds", ("plain",)] in ("hypothesis", "refuted")
    for finding in plan.findings(history):
        assert finding.effect is not None
        assert finding.evidence


def test_no_verdict_before_all_planned_trials_are_finished(make_lab, models) -> None:
    plan = published(models)
    history = carried_out(plan, make_lab())
    for finding in plan.findings(History(history.records[:40])):
        planned = [c for c in plan.cases if finding.models == c.models and c.claim.id in finding.key]
        done = {r.fingerprint for r in history.records[:40]}
        if not all(fingerprint(spec) in done for case in planned for _, spec in case.trials()):
            assert finding.status == "hypothesis"


def test_trials_that_fail_count_as_finished(make_lab, models) -> None:
    plan = published(models)
    full = carried_out(plan, make_lab(seed=1))
    lost = full.records[-1].model_copy(update={"state": "failed", "metrics": {}, "arrays": {}})
    history = History((*full.records[:-1], lost))
    assert plan.findings(history)
    assert [s for _, s, _ in plan.wanted(history)] == []


def test_claims_without_a_model_are_named(models) -> None:
    plan = published(models[:1])
    assert {"angular-polar", "key-bias-breaks-int4"} <= set(plan.untestable)
    assert any("with a key bias" in remark for remark in plan.remarks())


@pytest.mark.parametrize(
    ("comparator", "low", "high", "status"),
    [
        (">=", 1.6, 2.0, "confirmed"),
        (">=", 1.0, 1.4, "refuted"),
        (">=", 1.4, 1.6, "hypothesis"),
        ("<=", 1.0, 1.4, "confirmed"),
        ("<=", 1.6, 2.0, "refuted"),
        ("within", 0.8, 1.2, "confirmed"),
        ("within", 1.6, 1.7, "refuted"),
        ("within", 1.0, 1.7, "hypothesis"),
    ],
)
def test_verdicts_follow_the_whole_interval(comparator, low, high, status) -> None:
    setup = schema.Setup(both=schema.SideChoice(method="none"))
    claim = PublishedClaim(
        id="x",
        says="s",
        test="pair",
        a=setup,
        b=setup,
        comparator=comparator,
        threshold=1.5,
    )
    assert verdict(claim, Effect(name="e", value=(low + high) / 2, low=low, high=high)) == status


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nonsense", "is not TOML"),
        ('title = "t"\n', "claim"),
        (HEAD + 'test = "pair"\ncomparator = "<="\na = { both = { method = "affine" } }\n', "needs `b`"),
        (HEAD + 'test = "magic"\ncomparator = "<="\na = { both = { method = "affine" } }\n', "magic"),
        (HEAD + 'test = "threshold"\ncomparator = "<="\nthreshold = 1.0\na = { }\n', "both"),
        (LIMIT + "threshold = 1.0\na = { both = { method = 'affine' }, rung = 9 }\n", "rung 9"),
        (LIMIT + "threshold = 1.0\na = { kv = 'KV afine4/g64' }\n", "column 4, 'afine4'.*Did you mean 'affine'"),
        (LIMIT + "threshold = 1.0\na = { kv = 'KV affine4/g64', sink_tokens = 4 }\n", "says everything"),
        (LIMIT + "threshold = 1.0\na = { kv = 'KV none', both = { method = 'affine' } }\n", "Give one of them"),
        (LIMIT + "threshold = -1.0\na = { both = { method = 'affine' } }\n", "threshold"),
        (HEAD + 'test = "threshold"\nmood = 1\ncomparator = "<="\na = { both = { method = "affine" } }\n', "mood"),
    ],
)  # fmt: skip
def test_bad_agendas_are_refused_with_the_place(models, tmp_path, text, words) -> None:
    with pytest.raises((AgendaError, UnknownNameError), match=words):
        published(models, text, tmp_path)


def test_a_setup_may_name_its_configuration_as_text(models, tmp_path) -> None:
    text = "K affine4/g64 V kivi2/g32 sink4 layers 0-3"
    plan = published(models, LIMIT + f"threshold = 1.0\na = {{ kv = '{text}' }}\n", tmp_path)
    assert {spec.kv.label for _, spec, _ in plan.wanted(History(()))} == {text}


def test_the_shipped_agenda_has_the_digest_that_campaigns_of_release_0_1_hold() -> None:
    assert schema.load("open-tq-metal").digest == "e25b635e5a440b8c"


def test_unknown_agendas_and_unfit_methods() -> None:
    with pytest.raises(UnknownNameError, match="open-tq-metal"):
        schema.load("open-tq-mental")


def test_a_method_that_does_not_fit_a_model_is_said(models, tmp_path) -> None:
    text = (
        HEAD
        + 'test = "threshold"\ncomparator = "<="\nthreshold = 1.0\na = { both = { method = "affine", bits = 7 } }\n'
    )
    plan = published(models, text, tmp_path)
    assert "does not fit" in plan.untestable["x"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_campaign_with_an_agenda_spends_its_budget_on_it(make_lab, make_info, models, seed) -> None:
    lab = make_lab(seed=seed)
    lab.n_layers = {i.name: i.n_layers for i in models}
    agenda = schema.load("open-tq-metal")
    models = models[:2]
    space, by_name = Space(models), {info.name: info for info in models}
    plan = AgendaPlan(agenda, by_name, {info.name: space.defaults(info)[0] for info in models})
    strategy = GenerationStrategy(space, AnalysisEngine(models, AgentSettings(), plan=plan), seed)
    records = []
    for number in range(120):
        records.append(attended(lab, lab.run(number, strategy.propose(number, History.before(number, records, 6)))))
    counts = Counter(r.proposer for r in records)
    assert counts["agenda"] > 40
    assert counts["random_search"] > 3
    assert len({r.fingerprint for r in records}) == 120
    with_prediction = [r for r in records if r.proposer == "agenda" and r.prediction]
    assert with_prediction
    done = History.before(120, records, 0)
    found = strategy.engine.analyse(120, done)
    mine = [f for f in found if f.author == "agenda"]
    assert mine
    from swarm.memory.records import FindingRecord

    rows = [FindingRecord(id=n, campaign_id=1, finding=f) for n, f in enumerate(found, 1)]
    history = History.before(120, records, 0, rows)
    assert {f.key: f.status for f in strategy.engine.analyse(120, history) if f.author == "agenda"} == {
        f.key: f.status for f in mine
    }
    summary = strategy.engine.summarise(history)
    resolver = Resolver(history, AgentSettings())
    assert problems(summary.text, resolver) == []
    assert "## The agenda's claims" in summary.text
    assert "untested: key-bias-breaks-int4" in summary.text
