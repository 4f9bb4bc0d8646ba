"""Sequences of different length in one packed cache: what each of them gives alone, and nothing of what lies before."""

import copy

import mlx.core as mx
import numpy as np
import pytest
from emulated import Emulated

from swarm.kernels import aligned_rows, attention
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.batch_cache import PackedBatchCache
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.spec import KVSpec, QuantSpec

HEADS, GROUP, DIM = 2, 3, 32
AFFINE = QuantSpec(method="affine", bits=4, group_size=32)
SPECS = {
    "affine": KVSpec(key=AFFINE, value=AFFINE),
    "q8_0 and norms": KVSpec(key=QuantSpec(method="q8_0"), value=QuantSpec(method="turboquant_mse", bits=3)),
    "rotated keys": KVSpec(key=QuantSpec(method="turboquant_mse", bits=4), value=AFFINE, sink_tokens=2),
    "keys alone": KVSpec(key=AFFINE),
    "sinks": KVSpec(key=AFFINE, value=AFFINE, sink_tokens=3),
    "sinks and tail": KVSpec(key=AFFINE, value=AFFINE, sink_tokens=3, residual_window=8),
}


def drawn(rng, batch, length, heads):
    """Arrays as models give them: heads are a transposed axis."""
    x = mx.array(rng.standard_normal((batch, length, heads, DIM)).astype(np.float16))
    return x.transpose(0, 2, 1, 3)


class Trial:
    """A batch on one device, and its sequences alone on another; both are given the same."""

    def __init__(self, kv, device, lengths, seed=0, reference=None, cap=None):
        self.rng = np.random.default_rng(seed)
        self.alone, rows = [], []
        for length in lengths:
            pair = [PackedKVCache(kv, backend=backend, logit_cap=cap) for backend in (device, reference or Cpu())]
            for sides in [[drawn(self.rng, 1, size, HEADS) for _ in "kv"] for size in (length - 1, 1)]:
                for cache in pair:
                    cache.append(*sides)
            rows.append(pair[0])
            self.alone.append(pair[1])
        self.batch = PackedBatchCache(rows)

    def step(self, mask=None, sinks=None):
        """One more token each: outputs of the batch, and of each alone."""
        queries = drawn(self.rng, len(self.alone), 1, HEADS * GROUP)
        keys, values = (drawn(self.rng, len(self.alone), 1, HEADS) for _ in "kv")
        view = self.batch.update_and_fetch(keys, values)[0]
        got = attention.attend(view, queries, 0.2, mask, sinks)
        want = []
        for i, cache in enumerate(self.alone):
            own = cache.append(keys[i : i + 1], values[i : i + 1])
            told = None if mask is None else mask[i : i + 1, ..., mask.shape[-1] - own.offset :]
            want.append(np.array(attention.attend(own, queries[i : i + 1], 0.2, told, sinks)))
        return np.array(got), np.concatenate(want)

    def check(self, **options):
        got, want = self.step(**options)
        assert np.linalg.norm(got - want) / np.linalg.norm(want) < 4e-3


@pytest.mark.parametrize("launch", [0.0, 1e9], ids=["parts", "one part"])
@pytest.mark.parametrize("layout", ["cuda", "metal"])
@pytest.mark.parametrize("name", SPECS)
def test_one_launch_reads_every_sequence_from_where_it_begins(name, layout, launch, monkeypatch):
    monkeypatch.setattr(aligned_rows, "MOST_PADDING", 9.0)
    device = Emulated(layout, launch=launch)
    trial = Trial(SPECS[name], device, (13, 100, 33), seed=len(name))
    for _ in range(3):
        before = device.taken
        trial.check()
        assert device.taken == before + 1
    assert tuple(trial.batch.offset.tolist()) == (16, 103, 36)
    assert [row.offset for row in trial.batch.rows] == [16, 103, 36]


@pytest.mark.parametrize("name", ["affine", "sinks"])
def test_capped_scores_and_learned_sinks_are_read_so_too(name):
    device = Emulated(launch=1e9)
    trial = Trial(SPECS[name], device, (20, 33), seed=3, cap=4.0)
    trial.check(sinks=mx.array(np.linspace(-1, 2, HEADS * GROUP), mx.float16))
    assert device.taken == 1


@pytest.mark.parametrize("name", ["affine", "sinks and tail"])
def test_a_mask_of_the_models_is_read_sequence_by_sequence(name):
    device = Emulated()
    trial = Trial(SPECS[name], device, (20, 33), seed=4)
    trial.check()
    for _ in range(2):
        longest = max(row.offset for row in trial.alone) + 1
        trial.check(mask=mx.array(trial.rng.random((2, 1, 1, longest)) < 0.8))
    assert device.taken == 1 + 2 * 2


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("affine", 9),
        pytest.param("affine", 66, marks=pytest.mark.slow),
        ("q8_0 and norms", 3),
        ("keys alone", 3),
        ("sinks", 3),
        ("sinks and tail", 3),
    ],
)
def test_what_is_stored_is_what_each_stores_alone(name, steps):
    """Byte by byte, while sequences come, leave and come back, tokens are taken back, and recent ones move."""
    device = Emulated(launch=1e9)
    trial, late = (Trial(SPECS[name], device, lengths, 5, device) for lengths in ((30, 41, 38), (25,)))
    for cache in (trial.batch.rows[0], trial.alone[0]):
        cache.keep_state_at(30)
    for _ in range(steps):
        trial.step()
    kept = trial.batch.extract(1), copy.deepcopy(trial.alone[1])
    trial.batch.filter([2, 0])
    trial.alone = [trial.alone[2], trial.alone[0]]
    for _ in range(3):
        trial.step()
    trial.batch.extend(late.batch)
    trial.alone += late.alone
    trial.check()
    if trial.batch.is_trimmable():
        trial.batch.trim(2)
        for cache in trial.alone:
            cache.trim(2)
        trial.check()
    pairs = [kept, *zip(trial.batch.rows, trial.alone, strict=True)]
    pairs.append([cache.kept_state() for cache in pairs[2]])
    assert [cache.offset for cache, _ in pairs] == [cache.offset for _, cache in pairs]
    for got, want in pairs:
        for side, other in zip(got.sides, want.sides, strict=True):
            held, expected = side.state(), other.state()
            assert held.pop("arrays").keys() == expected["arrays"].keys()
            for name, part in expected.pop("arrays").items():
                assert (np.array(side.state()["arrays"][name]) == np.array(part)).all(), name
            assert held == expected


def test_sequences_of_very_different_length_stay_apart():
    device = Emulated(launch=1e9)
    trial = Trial(SPECS["affine"], device, (5, 90), seed=6)
    trial.check()
    assert device.taken == 2
    assert trial.batch.nbytes == sum(row.nbytes for row in trial.batch.rows)
