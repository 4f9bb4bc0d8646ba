"""The third rung: finalists at long contexts, only where a campaign asks for them."""

import numpy as np
import pytest

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.nodes import long_context
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import Resolver
from swarm.agents.writing.summary import summarise
from swarm.agents.writing.use import LONG
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal

OTHER = "rms_dp"
LAG = 8


class Curves:
    """A laboratory whose trials have curves and answers too; `turn` makes cheap keys worse at long contexts.

    Another number of its quality trials says the opposite of the KLD.
    """

    def __init__(self, lab, turn=0.0):
        self.lab, self.turn = lab, turn

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        if name == "n_layers":
            self.lab.n_layers = value

    def run(self, number, proposal):
        record = self.lab.run(number, proposal)
        if record.state == "complete" and record.spec.protocol == "quality":
            opposite = Metric(name=OTHER, value=1 / record.metrics["kld"].value)
            record = record.model_copy(update={"metrics": {**record.metrics, OTHER: opposite}})
        if record.state != "complete" or record.spec.protocol not in LONG:
            return record
        kld = record.metrics["kld"].value
        bits = record.metrics["bits_per_value"].value
        far = kld * np.exp(self.turn * bits)
        found = {
            "retrieval": {"kept": 0.5},
            "generation": {"tokens_until_parting": 7.0},
            "context": {"kld_at_512": kld, "kld_at_2048": far},
        }[record.spec.protocol]
        more = {name: Metric(name=name, value=float(value)) for name, value in found.items()}
        return record.model_copy(update={"metrics": {**record.metrics, **more}})


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_without_the_setting_nothing_changes_and_with_it_finalists_are_tried(make_lab, simulate, infos, seed):
    plain = simulate(Curves(make_lab(seed=seed)), infos, 110, seed=seed)
    assert {r.spec.protocol for r in plain.records} == {"quality", "attention", "depth"}
    settings = AgentSettings(long="2K")
    run = simulate(Curves(make_lab(seed=seed)), infos, 110, seed=seed, settings=settings)
    long = [r for r in run.records if r.proposer == "long"]
    assert {(r.spec.protocol, r.spec.context) for r in long} <= {("context", 2048), ("retrieval", 2048)}
    assert 2 <= len(long) < 30
    for record in long:
        before = [r.spec for r in run.records[: record.number] if r.spec.rung == 1]
        assert (record.spec.model, record.spec.kv) in {(spec.model, spec.kv) for spec in before}


def test_finalists_are_tried_with_the_protocols_that_are_asked_for(make_lab, simulate, infos):
    settings = AgentSettings(long="2K", protocols=("generation", "retrieval"), shares={"long": 0.5})
    run = simulate(Curves(make_lab()), infos[:1], 50, settings=settings)
    long = {(r.spec.protocol, r.spec.context) for r in run.records if r.proposer == "long"}
    assert long == {("generation", 1536), ("retrieval", 2048)}


def test_finalists_are_the_best_in_the_number_that_is_set(make_lab, simulate, infos, monkeypatch):
    monkeypatch.setattr(long_context, "FINALISTS_BY", OTHER)
    run = simulate(Curves(make_lab()), infos, 80, lag=LAG, settings=AgentSettings(long="2K"))
    long = [r for r in run.records if r.proposer == "long"]
    assert long
    for record in long:
        known = [
            r for r in run.records[: record.number - LAG] if r.spec.rung == 1 and r.spec.model == record.spec.model
        ]
        points = [tuple(r.metrics[name].value for name in ("bits_per_value", OTHER)) for r in known]
        mine = [point for r, point in zip(known, points, strict=True) if r.spec.kv == record.spec.kv]
        assert not any(a < c and b < d for a, b in points for c, d in mine)


@pytest.mark.parametrize("turn", [0.0, 5.0])
def test_the_summary_says_whether_what_leads_at_short_contexts_leads_at_long_ones(make_lab, turn):
    settings, lab = AgentSettings(long=2048), Curves(make_lab(), turn)
    specs = [
        TrialSpec(model="alpha", kv=KVSpec.parse(f"K affine{bits}/g64 V affine{bits}/g64"), protocol=name, context=2048)
        for bits in (4, 8)
        for name in ("context", "retrieval")
    ]
    records = [lab.run(number, Proposal(spec=spec, proposer="long")) for number, spec in enumerate(specs)]
    history = History(tuple(records))
    summary = summarise(history, ["alpha"], settings)
    leads = "does not lead at the longest, {trial:1:label} does" if turn else "leads at the longest too"
    assert f"{{trial:3:label}}, {leads}." in summary.text
    resolver = Resolver(history, settings)
    assert problems(summary.text, resolver) == []
    assert "to one of 2048 tokens (trial 1). Its share of answers kept is 0.5." in resolver.render(summary.text)


def test_the_summary_says_what_finalists_lose_in_answers_without_a_curve_too(make_lab):
    settings, lab = AgentSettings(long=2048), Curves(make_lab())
    kv = KVSpec.parse("KV affine4/g64")
    records = [
        lab.run(number, Proposal(spec=TrialSpec(model="alpha", kv=kv, protocol=name, context=1024), proposer="long"))
        for number, name in enumerate(("retrieval", "generation"))
    ]
    history = History(tuple(records))
    text = summarise(history, ["alpha"], settings).text
    resolver = Resolver(history, settings)
    assert problems(text, resolver) == []
    assert "at 1024 tokens: the share of answers kept is 0.5 (trial 1)." in resolver.render(text)
    assert "tokens as the unquantized run does, and the KLD along that run's answers is" in text


@pytest.mark.parametrize("value", ["2K", "2k", 2048])
def test_contexts_may_be_given_in_k(value):
    assert AgentSettings(long=value).long == 2048


def test_what_is_no_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="no number of tokens, such as"):
        AgentSettings(long="much")


def test_a_campaign_without_finalists_has_no_long_trial(infos, make_lab, simulate):
    run = simulate(Curves(make_lab()), infos, 20, settings=AgentSettings(long=2048))
    assert not [r for r in run.records if r.proposer == "long"]
    assert AnalysisEngine(infos, AgentSettings()).settings.long is None
