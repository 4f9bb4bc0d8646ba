"""What an LLM proposes becomes a trial of the search space, or is refused with the reason."""

from __future__ import annotations

import pytest

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.history import History
from swarm.agents.llm.roles.proposer import Idea, specification
from swarm.agents.settings import AgentSettings
from swarm.experiments.space.search_space import Space
from swarm.kernels.errors import SwarmError


@pytest.fixture
def context(infos):
    return GenerationStrategy(Space(infos), AnalysisEngine(infos, AgentSettings()), 0).context(0, History(()))


def idea(**fields):
    return Idea.model_validate({"model": "alpha", "kv": "KV affine4/g64", **fields})


def test_the_ends_of_a_model_may_get_other_bits(context):
    found = specification(idea(ends={"first": 2, "last": 1, "key_bits": 8, "value_bits": 16}), context)
    assert [found.kv.at(layer).key.bits for layer in (0, 1, 2, 10, 11)] == [8, 8, 4, 4, 8]
    assert [found.kv.at(layer).value.method for layer in (0, 2, 11)] == ["none", "affine", "none"]
    assert context.expresses(found)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"ends": {"first": 9, "key_bits": 8}}, "too many of 12"),
        ({"ends": {"first": 1, "key_bits": 8}, "kv": "KV affine4/g64 layers 3-11"}, "stays in 16 bit"),
        ({"model": "gamma"}, "not part of this campaign"),
        ({"kv": "KV affine4/g64 layers 5-12"}, "layer 12 is not one of alpha"),
        ({"kv": "KV affine4/g64 sink5"}, "outside the search space"),
        ({"kv": "KV afine4/g64"}, "column 4, 'afine4'"),
    ],
)
def test_what_makes_no_sense_is_refused(context, fields, said):
    with pytest.raises(SwarmError, match=said):
        specification(idea(**fields), context)
