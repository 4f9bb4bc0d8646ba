"""Rates of requests, and decode steps beside 16 bit."""

from types import SimpleNamespace

import pytest
from tiny_models import write_tiny_model

from swarm.experiments.deploy import rates
from swarm.experiments.models import registry
from swarm.kernels.model_cache import make_cache

BESIDE = rates.DecodeTimes((1000, 9000), (0.02, 0.04), (0.01, 0.05))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return registry.load(str(write_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "gemma3_text", seed=1)))


def test_16_bit_is_called_faster_only_where_it_was():
    assert BESIDE.sixteen_bit_speedup(10) == BESIDE.sixteen_bit_speedup(1000) == pytest.approx(2)
    assert BESIDE.sixteen_bit_speedup(5000) == pytest.approx(1)
    assert BESIDE.sixteen_bit_speedup(90_000) == pytest.approx(0.8)
    assert [" 16 bit is faster here." in line for line in BESIDE.lines("q8_0")] == [True, False]


def test_a_request_is_timed_token_by_token_also_when_its_client_leaves():
    seen, done = [], []
    times = rates.RequestTimes(SimpleNamespace(prompt=[1] * 30, prompt_cache_count=10))
    for piece in times.over(iter("abcdef"), done.append):
        seen.append(piece)
        if piece == "c":
            break
    assert seen == ["a", "b", "c"]
    assert done == [times]
    told = times.timings(BESIDE)
    assert (told["cache_n"], told["prompt_n"], told["predicted_n"]) == (10, 20, 3)
    assert told["sixteen_bit_speedup"] == pytest.approx(2)
    assert told["prompt_per_second"] == pytest.approx(20 / times.first)
    assert times.decode_rate == pytest.approx(2 / (times.last - times.first))
    assert "20 prompt tokens" in times.line(None)
    assert "16 bit" not in times.line(None)
    assert "16 bit would decode 2x as fast" in times.line(BESIDE)


def test_steps_are_timed_with_caches_as_full_as_asked(loaded):
    made = []

    def make():
        made.append(make_cache(loaded.model, "affine8/g32"))
        return made[-1]

    found = rates.decode_times(loaded, make)
    limit = loaded.info.max_context
    assert found.contexts == (limit - rates.STEPS - 1,)
    assert len(found.packed) == len(found.sixteen_bit) == 1
    assert min(*found.packed, *found.sixteen_bit) > 0
    filled = next(caches for caches in made if caches[0].offset > rates.PASSAGE_TOKENS)
    assert {cache.offset for cache in filled} == {limit}
