"""Answers that are held to a role's schema: whatever they are, they can be judged on the data."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm import choices
from swarm.agents.llm.parsing import read
from swarm.agents.llm.roles.base import roles
from swarm.agents.llm.screening import dominated
from swarm.agents.settings import AgentSettings
from swarm.experiments.space.layers import EdgeLayers
from swarm.experiments.space.search_space import Space
from swarm.kernels.spec import KVSpec

ROLES = roles()


@pytest.fixture(scope="module")
def moments():
    """Campaigns of 30, 60 and 90 trials of three kinds of models."""
    return {}


def moment(moments, infos, make_lab, simulate, make_info, trials: int):
    if trials not in moments:
        models = [*infos, make_info("biased", head_dim=128, key_bias=True)]
        run = simulate(make_lab(), models, trials)
        moments[trials] = run.strategy.context(trials, run.history)
    return moments[trials]


def instances(schema: dict, root: dict | None = None) -> st.SearchStrategy:
    """Everything that a schema allows, as far as these schemas go."""
    root = root or schema
    if "$ref" in schema:
        return instances(root["$defs"][schema["$ref"].rpartition("/")[2]], root)
    if "anyOf" in schema:
        return st.one_of([instances(one, root) for one in schema["anyOf"]])
    if "const" in schema:
        return st.just(schema["const"])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if schema["type"] == "object":
        assert schema["required"] == list(schema["properties"])
        return st.fixed_dictionaries({name: instances(one, root) for name, one in schema["properties"].items()})
    if schema["type"] == "array":
        return st.lists(instances(schema["items"], root), min_size=schema["minItems"], max_size=schema["maxItems"])
    if schema["type"] == "null":
        return st.none()
    assert schema["type"] == "string", schema
    if "pattern" in schema:
        return st.from_regex(schema["pattern"], alphabet=st.characters(max_codepoint=126))
    return st.text(max_size=schema["maxLength"])


@pytest.mark.parametrize("name", sorted(ROLES))
@pytest.mark.parametrize("trials", [60, 90])
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_a_schema_allows_can_be_judged(
    moments, infos, make_lab, simulate, make_info, data, name, trials
) -> None:
    context, role = moment(moments, infos, make_lab, simulate, make_info, trials), ROLES[name]
    schema = role.schema(context, 200)
    if schema is None:
        assert name == "scribe"
        return
    answer = read(json.dumps(data.draw(instances(schema))), role.answer)
    assert role.use(answer, context).judged


def test_there_is_nothing_to_ask_before_there_is_anything_to_tell(infos, make_lab, simulate) -> None:
    run = simulate(make_lab(), infos[:1], 1)
    context = run.strategy.context(1, run.history)
    asked = {name for name, role in ROLES.items() if role.schema(context, 200) is not None}
    assert asked == {"proposer"}


def test_an_answer_has_as_many_items_as_there_is_room_for(moments, infos, make_lab, simulate, make_info) -> None:
    context = moment(moments, infos, make_lab, simulate, make_info, 30)
    few, many = (ROLES["proposer"].schema(context, tokens)["properties"]["proposals"] for tokens in (64, 32_000))
    assert few["maxItems"] == 1 < many["maxItems"] < 20


@pytest.mark.parametrize("model", ["alpha", "biased"])
def test_configurations_are_those_of_the_space(infos, make_info, model) -> None:
    space = Space([*infos, make_info("biased", head_dim=128, key_bias=True)])
    text = choices.configuration(space, model)
    (rule,) = text.__metadata__
    key, value = ([s for m in side.methods for s in side.specs(m)] for side in space.sides(space.models[model]))
    for k, v in itertools.chain(((k, value[-1]) for k in key), ((key[-1], v) for v in value)):
        lawful = (k.method, v.method) != ("none", "none")
        assert bool(re.fullmatch(rule.pattern, f"K {k.label} V {v.label} sink4")) is lawful
    for wrong in ("K affine7/g64 V q4_0", "K affine4/g64", "K affine4/g64 V q4_0 sink5", "K none V none"):
        assert not re.fullmatch(rule.pattern, wrong)
    assert bool(re.fullmatch(rule.pattern, "K affine4/g64 V affine4/g64 -bias")) is (model == "biased")


class Uniform(Space):
    """A part of the space in which the ends of a model are like the rest."""

    def edge_layers(self, info):
        return EdgeLayers(*self.sides(info), ())


def test_other_bits_at_the_ends_are_offered_where_the_space_has_them(infos) -> None:
    for space, offered in ((Space(infos), True), (Uniform(infos), False)):
        strategy = GenerationStrategy(space, AnalysisEngine(infos, AgentSettings()), 0)
        schema = ROLES["proposer"].schema(strategy.context(0, History(())), 200)
        assert ("Ends" in json.dumps(schema)) is offered


def test_untried_configurations_are_new_and_may_be_answered(moments, infos, make_lab, simulate, make_info) -> None:
    context = moment(moments, infos, make_lab, simulate, make_info, 90)
    told = ROLES["proposer"].task(context)["untried"]
    assert any(told.values())
    for model, labels in told.items():
        (rule,) = choices.configuration(context.space, model).__metadata__
        for label in labels:
            assert re.fullmatch(rule.pattern, label)
            spec = context.trial(KVSpec.parse(label), model)
            assert spec is not None
            assert context.is_new(spec)
            assert dominated([spec], context) == [""]
