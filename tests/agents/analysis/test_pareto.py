from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents.analysis import pareto, results
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.front import pareto_front
from swarm.memory.records import Proposal

coordinates = st.integers(0, 6).map(float)
points = st.lists(st.tuples(coordinates, coordinates), max_size=12)


@given(points)
def test_front_is_what_nothing_dominates(found: list[tuple[float, float]]) -> None:
    kept = {found[i] for i in pareto_front(found)}
    for p in set(found):
        dominated = any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in found)
        assert (p in kept) == (not dominated)


@given(points)
def test_hypervolume_counts_the_dominated_cells(found: list[tuple[float, float]]) -> None:
    cells = sum(any(p[0] <= x and p[1] <= y for p in found) for x in range(7) for y in range(7))
    assert pareto.hypervolume(found, (7.0, 7.0)) == cells


@given(points, st.tuples(coordinates, coordinates))
def test_another_point_never_shrinks_the_volume(found: list[tuple[float, float]], extra: tuple[float, float]) -> None:
    assert pareto.hypervolume([*found, extra], (7.0, 7.0)) >= pareto.hypervolume(found, (7.0, 7.0))


def results_of(lab, kvs):
    records = [lab.run(n, Proposal(spec=TrialSpec(model="alpha", kv=kv), proposer="test")) for n, kv in enumerate(kvs)]
    return list(results.pool(records).values())


def affine(bits: int, **fields) -> KVSpec:
    spec = QuantSpec(method="affine", bits=bits)
    return KVSpec(key=spec, value=spec, **fields)


def test_equals_within_the_noise_are_seldom_ranked_apart(make_lab) -> None:
    apart = 0
    for seed in range(60):
        lab = make_lab(seed=seed, noise=0.3)
        found = results_of(lab, [affine(4), affine(4, sink_tokens=4), affine(4, sink_tokens=16)])
        apart += pareto.ranks(found) != [0, 0, 0]
    assert apart <= 9


@pytest.mark.parametrize("seed", range(4))
def test_clear_differences_are_ranked(make_lab, seed) -> None:
    lab = make_lab(seed=seed, law=lambda spec: 2.0 * (spec.kv.sink_tokens == 4) + 4.0 * (spec.kv.sink_tokens == 16))
    found = results_of(lab, [affine(4, sink_tokens=16), affine(4), affine(4, sink_tokens=4), affine(8)])
    assert pareto.ranks(found) == [2, 0, 1, 0]


def test_dominance_needs_no_more_bits(lab) -> None:
    found = results_of(lab, [affine(3), affine(8)])
    assert not pareto.dominance(found).any()
    assert np.array_equal(pareto.dominance([]), np.zeros((0, 0), bool))
    assert pareto.ranks([]) == []


@pytest.mark.parametrize("seed", range(3))
def test_three_objectives_have_the_volume_and_the_front_of_their_definitions(seed):
    rng = np.random.default_rng(seed)
    found = [tuple(map(float, row)) for row in rng.random((12, 3))]
    reference = (1.0, 1.0, 0.9)
    draws = rng.random((40_000, 3)) * reference
    covered = np.zeros(len(draws), bool)
    for point in found:
        covered |= (draws >= point).all(1)
    volume = covered.mean() * 0.9
    assert pareto.hypervolume(found, reference) == pytest.approx(volume, abs=0.01)
    pairs = [(i, a, b) for i, a in enumerate(found) for b in found if a != b]
    beaten = {i for i, a, b in pairs if all(y <= x for x, y in zip(a, b, strict=True))}
    assert set(pareto_front(found)) == set(range(12)) - beaten
