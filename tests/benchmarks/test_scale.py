"""The benchmark of scale: parts of campaigns and fitted exponents, on numbers whose answer is known."""

import importlib

import numpy as np
import pytest

scale = importlib.import_module("benchmarks.scale")
runs = importlib.import_module("benchmarks._scale_runs")
BOUNDS = (0, 10, 100, 1_000)


@pytest.mark.parametrize(("seed", "exponent"), [(0, 0.0), (1, 0.5), (2, 1.0), (3, -1.0)])
def test_the_exponent_of_a_noisy_power_is_found_within_its_error(seed, exponent):
    noise = np.random.default_rng(seed).normal(0, 0.05, 12)
    points = [(2.0**k, 3.0 * 2.0 ** (k * exponent) * float(np.exp(noise[k]))) for k in range(12)]
    found = scale.fit(points)
    assert abs(found["exponent"] - exponent) < 4 * found["stderr"]
    assert found["stderr"] < 0.02
    assert found["points"] == 12


def test_nothing_is_fitted_to_one_size_or_to_two_points():
    assert scale.fit([(4.0, 1.0), (4.0, 1.1), (4.0, 0.9)]) is None
    assert scale.fit([(1.0, 1.0), (2.0, 2.0)]) is None


def test_parts_share_out_the_time_of_a_campaign():
    whole = runs.Done(tuple(0.002 * (n + 1) for n in range(100)), 0.1)
    assert runs.parts(whole, BOUNDS, 100) == pytest.approx({"0-10": 2.0, "10-100": 2.0})


def test_the_last_part_of_a_campaign_that_ran_out_of_time_ends_where_it_came_to():
    cut = runs.Done(tuple(0.001 * (n + 1) ** 2 for n in range(40)), 0.1)
    assert list(runs.parts(cut, BOUNDS, 100)) == ["0-10", "10-40"]
    assert runs.parts(cut, BOUNDS, 100)["10-40"] == pytest.approx(50.0)
    assert list(runs.parts(cut, BOUNDS, 40)) == ["0-10"]
