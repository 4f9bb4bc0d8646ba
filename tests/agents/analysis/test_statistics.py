from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.agents.analysis import statistics
from swarm.agents.analysis.statistics import Estimate

samples = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(samples)
def test_mean_agrees_with_scipy(x: list[float]) -> None:
    assume(np.std(x) > 1e-6)
    found = statistics.mean(x)
    assert found is not None
    reference = scipy.stats.ttest_1samp(x, 0.0)
    assert found.p == pytest.approx(reference.pvalue, abs=1e-9)
    interval = reference.confidence_interval(0.95)
    assert found.interval() == pytest.approx((interval.low, interval.high), rel=1e-6, abs=1e-9)


@given(samples, samples)
def test_difference_agrees_with_welch(x: list[float], y: list[float]) -> None:
    assume(np.std(x) > 1e-3)
    assume(np.std(y) > 1e-3)
    a, b = statistics.mean(x), statistics.mean(y)
    assert a is not None
    assert b is not None
    assert (a - b).p == pytest.approx(scipy.stats.ttest_ind(x, y, equal_var=False).pvalue, abs=1e-9)


def test_one_sample_has_no_error() -> None:
    assert statistics.mean([1.0]) is None
    assert statistics.mean([]) is None


@given(st.lists(st.floats(0, 1), max_size=40))
def test_holm_lies_between_bonferroni_and_no_correction(p: list[float]) -> None:
    kept = statistics.holm(p)
    assert all(value <= 0.05 for value, keep in zip(p, kept, strict=True) if keep)
    assert all(keep for value, keep in zip(p, kept, strict=True) if value <= 0.05 / len(p))


@pytest.mark.parametrize(
    ("hits", "size", "all_hits", "total"), [(3, 5, 4, 40), (0, 5, 4, 40), (5, 5, 9, 12), (1, 1, 1, 9)]
)
def test_fisher_agrees_with_scipy(hits: int, size: int, all_hits: int, total: int) -> None:
    others = all_hits - hits
    table = [[hits, size - hits], [others, total - size - others]]
    expected = scipy.stats.fisher_exact(table, alternative="greater").pvalue
    assert statistics.fisher(hits, size, all_hits, total) == pytest.approx(expected)


@given(st.integers(1, 60), st.data())
def test_proportion_agrees_with_scipy(size: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, size))
    expected = scipy.stats.binomtest(hits, size).proportion_ci(0.95, method="exact")
    assert statistics.proportion(hits, size) == pytest.approx((expected.low, expected.high), abs=1e-9)


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=30))
def test_rank_correlation_agrees_with_scipy(pairs: list[tuple[int, int]]) -> None:
    x, y = zip(*pairs, strict=True)
    assume(len(set(x)) > 1)
    assume(len(set(y)) > 1)
    rho, low, high = statistics.rank_correlation(x, y)
    assert rho == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=2e-3)
    assert low <= rho <= high


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), min_size=3, max_size=20))
def test_slope_agrees_with_scipy(points: list[tuple[float, float]]) -> None:
    x, y = zip(*points, strict=True)
    assume(np.std(x) > 1e-2)
    assume(np.std(y) > 1e-2)
    found = statistics.slope(x, y)
    reference = scipy.stats.linregress(x, y)
    assert found is not None
    assert found.mean == pytest.approx(reference.slope, abs=1e-6)
    assert found.stderr == pytest.approx(reference.stderr, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moderated_tests_keep_their_level_and_gain_power(seed: int) -> None:
    rng = np.random.default_rng(seed)
    null = [statistics.mean(list(x)) for x in rng.normal(0, 1, (600, 4))]
    real = [statistics.mean(list(x)) for x in rng.normal(2, 1, (600, 4))]
    both = statistics.moderate([e for e in (*null, *real) if e is not None])
    false, true = ([e.p < 0.01 for e in half] for half in (both[:600], both[600:]))
    plain = [e.p < 0.01 for e in real if e is not None]
    assert np.mean(false) < 0.025
    assert np.mean(true) > np.mean(plain) + 0.2


def test_variances_that_are_unlike_are_not_borrowed_from() -> None:
    rng = np.random.default_rng(0)
    mixed = [statistics.mean(list(rng.normal(0, 10.0 ** rng.uniform(-4, 4), 6))) for _ in range(100)]
    found = statistics.moderate([e for e in mixed if e is not None])
    assert all(new.df < old.df + 2 for new, old in zip(found, mixed, strict=True) if old is not None)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_interval_covers_the_truth_as_often_as_it_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hits = 0
    for row in rng.normal(3.0, 2.0, (400, 4)):
        found = statistics.mean(list(row))
        assert found is not None
        low, high = found.interval()
        hits += low <= 3.0 <= high
    assert 0.91 < hits / 400 < 0.985


@settings(max_examples=25)
@given(st.integers(0, 1_000))
def test_bootstrap_is_reproducible(seed: int) -> None:
    def once(rng: np.random.Generator) -> float:
        return float(rng.normal(size=8).mean())

    first = statistics.bootstrap(once, seed=seed, rounds=50)
    assert first == statistics.bootstrap(once, seed=seed, rounds=50)
    assert first[0] <= first[1]


def test_exact_estimates_do_not_divide_by_zero() -> None:
    sure = Estimate(1.0, 0.0, 3, 4)
    assert sure.p == 0.0
    assert (sure - sure).p == 1.0
    assert sure.below(2.0) == 0.0
    assert sure.below(0.5) == 1.0
