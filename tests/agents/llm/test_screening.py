"""What is certain to be dominated costs no trial; what may be good does."""

from __future__ import annotations

import json

import numpy as np
import pytest

from swarm.agents.analysis.pareto import objectives
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.llm.screening import dominated
from swarm.kernels.spec import KVSpec


@pytest.fixture(scope="module")
def kept():
    return {}


def moment(kept, infos, make_lab, simulate):
    if not kept:
        run = simulate(make_lab(), infos, 80)
        kept["context"] = run.strategy.context(80, run.history)
    return kept["context"]


@pytest.mark.parametrize("seed", [0, 1])
def test_only_what_is_certain_is_screened_out(infos, make_lab, simulate, seed) -> None:
    lab = make_lab()
    run = simulate(lab, infos, 80)
    context, rng = run.strategy.context(80, run.history), np.random.default_rng(seed)
    for model in context.infos:
        assert not any(dominated([result.spec for result in context.front(model)], context))
    measured = [point for r in run.history.select(model="alpha") if (point := objectives(r)) is not None]
    screened = []
    drawn = [context.space.random(rng, context.infos["alpha"]) for _ in range(60)]
    for spec, why in zip(drawn, dominated(drawn, context), strict=True):
        if why:
            screened.append(spec)
            assert "surely dominated" in why
            assert len(why) < 300
            assert "\n" not in why
    level = [(lab.log_kld(spec) / np.log(10), lab.cost(spec)) for spec in screened]
    beaten = [any(kld < ours and bits <= cost for kld, bits in measured) for ours, cost in level]
    assert len(beaten) >= 3
    assert np.mean(beaten) > 0.95


def test_nothing_is_screened_out_while_little_is_known(infos, make_lab, simulate) -> None:
    run = simulate(make_lab(), infos, 6)
    context = run.strategy.context(6, run.history)
    assert dominated([context.trial(KVSpec.parse("KV affine2/g32"), "alpha")], context) == [""]


def test_the_llm_is_told_in_a_line_why_its_idea_got_no_trial(
    kept, infos, make_lab, simulate, server, converse, acts
) -> None:
    context = moment(kept, infos, make_lab, simulate)
    known = context.front("alpha")[0]
    idea = {"model": "alpha", "kv": known.spec.kv.label, "rationale": "again"}
    server.plan = [acts.says(json.dumps({"proposals": [idea]}))]
    runner = RoleRunner(converse())
    assert runner.ask("proposer", context).kept is None
    runner.ask("proposer", context)
    task = json.loads(server.bodies[1]["messages"][1]["content"].split("```json")[1].split("```")[0])["task"]
    assert f"trial {known.records[0].id}, kld" in task["refused"][0]
    assert "\n" not in task["refused"][0]
    runner.close()
