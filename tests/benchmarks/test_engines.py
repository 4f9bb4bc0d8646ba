"""The benchmark of engine searches takes flags from its rows as campaigns rank them."""

import importlib

import pytest

engines = importlib.import_module("benchmarks.engines")
arms = importlib.import_module("benchmarks._engine_arms")


def rows(flag: int, *seconds: float, kld: float = 0.01) -> list[dict]:
    """Measurements of one choice of flags, half of each request for the answer."""
    return [{"flags": {"x": flag}, "request": s, "decode_rate": 256 / s, "kld_upper": kld} for s in seconds]


@pytest.mark.parametrize("arm", list(arms.ARMS))
def test_a_lucky_measurement_is_not_chosen_and_nothing_beyond_the_limit(arm):
    steady, lucky, lossy = rows(1, 1.0, 1.05), rows(2, 0.8), rows(3, 0.5, 0.5, kld=0.06)
    assert engines.choice(arm, [*lucky, *lossy, *steady])["flags"] == {"x": 1}
    assert engines.choice(arm, [*lucky, *lossy, *steady[:1]])["flags"] == {"x": 2}
    assert engines.choice(arm, lossy) is None
    assert engines.choice(arm, [{"flags": {}, "outcome": "refused"}]) is None
