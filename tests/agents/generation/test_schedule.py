from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents.generation.nodes.base import nodes
from swarm.agents.generation.strategy import Schedule, Stride, weights
from swarm.kernels.errors import UnknownNameError

KINDS = {"agents": {"quality": 0.5, "depth": 0.3, "attention": 0.2}, "control": {"tpe": 1.0, "random_search": 1.0}}


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0.01, 10), min_size=1), st.integers(1, 200))
def test_stride_keeps_every_count_close_to_its_share(shares: dict[str, float], turns: int) -> None:
    stride = Stride(shares)
    drawn = Counter(stride.next() for _ in range(turns))
    total = sum(shares.values())
    for name, weight in shares.items():
        assert abs(drawn[name] - turns * weight / total) < len(shares)


def test_defaults_come_first_and_models_take_turns() -> None:
    schedule = Schedule({"a": 2, "b": 3}, KINDS, 0.25)
    first = [schedule.at(n) for n in range(5)]
    assert [(model, index) for _, _, model, index in first] == [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("b", 2)]
    assert {arm for arm, *_ in first} == {"defaults"}
    assert schedule.at(5)[0] != "defaults"


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_control_share_holds_at_every_budget(share: float) -> None:
    schedule = Schedule({"a": 1, "b": 1, "c": 1}, KINDS, share)
    for budget in (10, 50, 331):
        arms = Counter(schedule.at(n)[0] for n in range(3, budget))
        assert abs(arms["control"] - share * (budget - 3)) <= 1


def test_the_plan_does_not_depend_on_the_order_of_asking() -> None:
    one, other = (Schedule({"a": 2, "b": 2}, KINDS, 0.2) for _ in range(2))
    forward = [one.at(n) for n in range(60)]
    assert [other.at(n) for n in reversed(range(60))] == forward[::-1]


def test_every_kind_reaches_every_model() -> None:
    schedule = Schedule({"a": 1, "b": 1, "c": 1}, KINDS, 0.2)
    counts = Counter((kind, model) for _, kind, model, _ in map(schedule.at, range(3, 300)))
    for kind in ("quality", "depth", "attention", "tpe", "random_search"):
        per_model = [counts[kind, model] for model in "abc"]
        assert max(per_model) - min(per_model) <= 1


def test_shares_can_be_overridden_and_unknown_kinds_are_refused() -> None:
    assert weights(nodes(), {"depth": 0.0})["agents"]["depth"] == 0.0
    with pytest.raises(UnknownNameError, match="kind of trial 'deepness'"):
        weights(nodes(), {"deepness": 1.0})
    with pytest.raises(UnknownNameError):
        weights(nodes(), {"random_search": 1.0})


def test_published_claims_take_most_of_the_agents_arm_while_they_have_trials() -> None:
    planned = weights(nodes(), {}, planned=True)["agents"]
    assert planned["agenda"] / sum(planned.values()) == pytest.approx(0.85)
    assert weights(nodes(), {})["agents"]["agenda"] == 0
    assert weights(nodes(), {"agenda": 0.1}, planned=True)["agents"]["agenda"] == 0.1


def test_every_kind_belongs_to_an_arm() -> None:
    """Settings of campaigns hold these names as keys of their shares."""
    assert list(nodes()) == [
        "agenda",
        "attention",
        "cause",
        "comparison",
        "default",
        "depth",
        "design",
        "finalist",
        "long",
        "offered",
        "promotion",
        "quality",
        "random_search",
        "replication",
        "tpe",
    ]
    for name, node in nodes().items():
        assert node.name == name
        assert node.arm in ("defaults", "agents", "control")
        assert node.share >= 0
