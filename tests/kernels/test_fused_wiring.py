"""The cache takes the fused path where a back-end has it, and gives the same attention as the reference path."""

from __future__ import annotations

import copy
import gc

import mlx.core as mx
import numpy as np
import pytest
from emulated import Emulated, MlxOperations

from swarm.kernels import attention
from swarm.kernels.backends.cpu import Cpu
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.fused import recent
from swarm.kernels.fused.plan import Device, plan
from swarm.kernels.packed_store import MEMORY_STEP_TOKENS
from swarm.kernels.rotation import hadamard
from swarm.kernels.spec import KVSpec, QuantSpec


def outputs(
    backend, kv, *, dim=64, value_dim=None, batch=1, heads=2, group=4, window=None, steps=3, prompt=41,
    dtype=mx.float16, seed=0, mask=None, sinks=None, cap=None,
):  # fmt: skip
    """A prompt, then single tokens, through one cache: the outputs of the single tokens.

    Arrays are laid out as models give them, token by token: heads are a transposed axis. `mask` makes one for the
    columns of a single token.
    """
    rng = np.random.default_rng(seed)

    def drawn(length, heads, dim=dim):
        x = mx.array(rng.standard_normal((batch, length, heads, dim)).astype(np.float32))
        return x.astype(dtype).transpose(0, 2, 1, 3)

    cache = PackedKVCache(kv, window=window, seed=3)
    cache.backend = backend
    cache.logit_cap = cap
    found = []
    for length in [prompt] + [1] * steps:
        view = cache.append(drawn(length, heads), drawn(length, heads, value_dim or dim))
        given = ("causal" if length > 1 else None) if mask is None or length > 1 else mask(rng, view.shape[2])
        out = attention.attend(view, drawn(length, heads * group), 0.2, given, sinks)
        if length == 1:
            found.append(np.array(out.astype(mx.float32)))
    return np.stack(found)


def spec(method, **fields):
    return QuantSpec(method=method, **fields)


CASES = {
    "affine4": KVSpec(key=spec("affine", bits=4), value=spec("affine", bits=4)),
    "sinks and residual": KVSpec(
        key=spec("affine", bits=8), value=spec("affine", bits=4), sink_tokens=4, residual_window=16
    ),
    "ggml": KVSpec(key=spec("q8_0"), value=spec("q4_0"), residual_window=5),
    "rotated": KVSpec(
        key=spec("turboquant_mse"), value=spec("turboquant_mse", bits=3), sink_tokens=3, residual_window=7
    ),
    "hadamard": KVSpec(
        key=spec("affine", bits=4, rotation="hadamard"),
        value=spec("affine", bits=4, rotation="hadamard"),
        sink_tokens=2,
    ),
    "kivi": KVSpec(key=spec("kivi"), value=spec("kivi"), sink_tokens=3),
    "kivi, residual": KVSpec(
        key=spec("kivi", bits=4, rotation="hadamard"), value=spec("kivi", bits=2), sink_tokens=2, residual_window=6
    ),
    "polar": KVSpec(key=spec("polarquant"), value=spec("polarquant", bits=5), residual_window=4),
    "values alone": KVSpec(value=spec("affine", bits=4), sink_tokens=2, residual_window=3),
    "keys alone": KVSpec(key=spec("affine", bits=4)),
    "sixteen bit": KVSpec(),
    "all recent": KVSpec(key=spec("affine", bits=4), value=spec("affine", bits=4), sink_tokens=4, residual_window=99),
}


@pytest.mark.parametrize("window", [None, 24])
@pytest.mark.parametrize("name", CASES)
def test_the_fused_path_agrees_with_the_reference_path(name, window):
    backend = Emulated(scalar_heads=16 if "sixteen" in name else 0)
    fused = outputs(backend, CASES[name], window=window)
    reference = outputs(Cpu(), CASES[name], window=window)
    assert backend.taken == 3
    assert np.linalg.norm(fused - reference) / np.linalg.norm(reference) < 2e-3


@pytest.mark.parametrize("name", ["sinks, ggml", "norms", "affine4"])
def test_tokens_that_are_not_in_the_stores_yet_are_read(name):
    kv = {
        "sinks, ggml": KVSpec(key=spec("q8_0"), value=spec("q4_1"), sink_tokens=3),
        "norms": KVSpec(key=spec("turboquant_mse"), value=spec("affine", bits=4)),
        "affine4": CASES["affine4"],
    }[name]
    backend = Emulated("cuda")
    fused = outputs(backend, kv, prompt=20, steps=25)
    assert backend.joined == 24
    reference = outputs(Cpu(), kv, prompt=20, steps=25)
    for step, (found, expected) in enumerate(zip(fused, reference, strict=True)):
        assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 4e-3, step


@pytest.mark.parametrize(("window", "prompt"), [(None, 20), (None, 245), (24, 245)])
def test_attention_goes_on_when_recent_tokens_move_into_the_stores(monkeypatch, window, prompt):
    """Into arrays that have room for them, and into new ones: what is there grows by 256 tokens."""
    monkeypatch.setattr(recent, "ROOM", 8)
    for seed, name in enumerate(("affine4", "ggml")):
        backend = Emulated("cuda")
        fused, reference = (
            outputs(path, CASES[name], prompt=prompt, steps=28, window=window, seed=seed) for path in (backend, Cpu())
        )
        assert backend.joined >= 25
        np.testing.assert_allclose(fused, reference, rtol=0, atol=2e-3)


def decoded(backend, kv, *, window, seed):
    """Outputs of single tokens among all that changes a cache: chunks, tokens taken back, copies, another scale."""
    rng = np.random.default_rng(seed)

    def drawn(length, heads):
        x = mx.array(rng.standard_normal((1, length, heads, 64)).astype(np.float32))
        return x.astype(mx.float16).transpose(0, 2, 1, 3)

    cache = PackedKVCache(kv, window=window, seed=3)
    cache.backend = backend
    caches, found = [cache], []

    def step(cache, length=1, scale=0.2):
        view = cache.append(drawn(length, 2), drawn(length, 2))
        out = attention.attend(view, drawn(length, 8), scale, "causal" if length > 1 else None)
        if length == 1:
            found.append(np.array(out.astype(mx.float32)))

    def steps(*scales):
        for scale in scales:
            for each in caches:
                step(each, scale=scale)

    step(cache, 41)
    steps(0.2, 0.2, 0.2, 0.3, 0.3)
    if cache.is_trimmable():
        cache.trim(2)
    steps(0.3, 0.2, 0.2)
    step(cache, 5)
    steps(0.2, 0.2, 0.2)
    caches.append(copy.deepcopy(cache))
    steps(0.2, 0.2, 0.2)
    cache.logit_gain = 1.5
    steps(0.2, 0.2)
    return np.stack(found)


@pytest.mark.parametrize(
    ("window", "seed"),
    [(None, 0), (24, 1), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, 1), (24, 0)))],
)
@pytest.mark.parametrize("name", ["affine4", "hadamard", "norms", "ggml"])
def test_every_token_reads_what_is_stored_by_then(name, window, seed):
    kv = KVSpec(key=spec("turboquant_mse"), value=spec("turboquant_mse", bits=3)) if name == "norms" else CASES[name]
    kv = kv.model_copy(update={"residual_window": 5 if name == "ggml" else 0})
    backend = Emulated("cuda")
    fused = decoded(backend, kv, window=window, seed=seed)
    assert backend.joined > 10
    reference = decoded(Cpu(), kv, window=window, seed=seed)
    np.testing.assert_allclose(fused, reference, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("kv", "dim"),
    [
        (KVSpec(key=spec("turboquant_prod"), value=spec("kivi", bits=2)), 64),
        (KVSpec(key=spec("qjl"), value=spec("affine", bits=4)), 64),
        (KVSpec(key=spec("affine", bits=4), value=spec("affine", bits=4)), 576),
    ],
)
def test_what_the_kernels_do_not_know_takes_the_other_path(kv, dim):
    backend = Emulated()
    fused = outputs(backend, kv, dim=dim)
    assert backend.taken == 0
    np.testing.assert_allclose(fused, outputs(Cpu(), kv, dim=dim), atol=2e-2)


def padded(rng, columns):
    """The second sequence of a batch is shorter: its first columns are padding."""
    return mx.array(np.stack([np.ones(columns, bool), np.arange(columns) >= 20]))[:, None, None]


def test_rotated_queries_and_outputs_cost_no_launch():
    class Listing(Emulated):
        def run(self, kernel, arrays):
            entries.append(kernel.entry)
            return super().run(kernel, arrays)

    for window, tail in (
        (0, ["append", "decode_packed_framed", "merge_framed"]),
        (5, ["decode_framed", "merge_framed"]),
    ):
        entries = []
        kv = KVSpec(key=spec("turboquant_mse", bits=4), value=spec("turboquant_mse", bits=3), residual_window=window)
        fused, reference = outputs(Listing(), kv), outputs(Cpu(), kv)
        assert entries[-len(tail) :] == tail
        assert np.linalg.norm(fused - reference) / np.linalg.norm(reference) < 2e-3


@pytest.mark.parametrize("heads", [None, 3])
@pytest.mark.parametrize("rotation", ["none", "hadamard"])
def test_the_frame_of_a_codec_is_what_queries_and_outputs_pass(rotation, heads):
    rng = np.random.default_rng(3)
    factors = Factors(np.exp(rng.standard_normal(96 if heads is None else (heads, 96))))
    codec = Codec(
        spec("affine", bits=4, group_size=32, rotation=rotation, scaling="learned"), "key", 96, factors=factors
    )
    order, given = codec.frame
    turn = np.kron(np.eye(96 // order), hadamard(order) * order**0.5)
    x = rng.standard_normal((2, 3, 4, 96)).astype(np.float32)
    assert given.shape == (heads or 1, 96)
    assert np.allclose((x * given[:, None]) @ turn, codec.query(x), atol=1e-4)
    assert np.allclose((x @ turn) * given[:, None], codec.output(x), atol=1e-4)


def test_other_maps_have_no_frame():
    for given in (spec("affine", bits=4), spec("affine", bits=4, rotation="random"), spec("qjl")):
        assert Codec(given, "key", 64).frame is None


MASKS = {
    "padding": padded,
    "one row": lambda rng, columns: mx.array(rng.random((1, columns)) < 0.7),
    "scores": lambda rng, columns: mx.array(rng.standard_normal((2, 8, 1, columns)).astype(np.float16)),
    "short": lambda rng, columns: mx.array(rng.standard_normal((1, 1, 1, columns - 9)).astype(np.float32)),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("name", ["sinks and residual", "rotated"])
def test_masks_of_one_query(name, mask):
    seen = {"batch": 2, "mask": MASKS[mask], "window": 30 if mask == "one row" else None}
    backend = Emulated()
    fused, reference = (outputs(path, CASES[name], **seen) for path in (backend, Cpu()))
    assert backend.taken == 3
    assert np.linalg.norm(fused - reference) / np.linalg.norm(reference) < 2e-3


@pytest.mark.parametrize("name", ["sinks and residual", "rotated"])
def test_sinks_caps_and_other_values_take_the_fused_path(name):
    sinks = mx.array(np.random.default_rng(4).standard_normal(8).astype(np.float16) * 3)
    other = {"value_dim": 128, "sinks": sinks, "cap": 5.0, "window": 24}
    backend = Emulated()
    fused, reference = (outputs(path, CASES[name], **other) for path in (backend, Cpu()))
    assert backend.taken == 3
    assert np.linalg.norm(fused - reference) / np.linalg.norm(reference) < 2e-3


@pytest.mark.parametrize("tokens", [1, 15, 16, 17, 1000, 131_072, 1_000_000])
@pytest.mark.parametrize("rows", [1, 8, 64, 300, 5000])
@pytest.mark.parametrize("threadgroups", [24, 264, 528])
def test_parts_fill_a_device_and_are_never_empty(tokens, rows, threadgroups):
    device = Device(threadgroups, 2, 8, 1)
    chosen = plan(device, counts=(tokens, 4, 128), rows=rows, group=8)
    tiles = -(-tokens // 16)
    assert 1 <= chosen.packed_parts <= tiles
    assert chosen.terms == 1
    assert chosen.head_parts == 1
    assert 1 <= chosen.tail_parts <= 2
    if tiles >= 100 * threadgroups:
        waves = rows * chosen.packed_parts / threadgroups
        assert waves >= 0.9 or chosen.packed_parts * rows > threadgroups - rows
        assert waves / np.ceil(waves) > 0.75


def test_no_parts_for_what_is_not_there():
    chosen = plan(Device(64, 2, 4, 0), counts=(0, 0, 5), rows=2, group=2)
    assert (chosen.packed_parts, chosen.head_parts, chosen.tail_parts, chosen.terms) == (0, 0, 1, 0)
    chosen = plan(Device(64, 2, 4, 0), counts=(0, 0, 5), rows=2, group=8)
    assert chosen.terms == 0


@pytest.fixture
def uncollected():
    """Without the garbage collector: what is freed is freed with its last reference."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("backend", [Emulated("cuda"), MlxOperations()])
def test_layers_that_grow_in_one_step_are_copied_one_after_another(monkeypatch, backend):
    monkeypatch.setattr(recent, "ROOM", 8)
    prompt = mx.random.normal((1, 1, 2 * MEMORY_STEP_TOKENS - 1, 64)).astype(mx.float16)
    token, queries = prompt[:, :, :1], mx.zeros((1, 4, 1, 64), mx.float16)
    mx.eval(prompt, token, queries)
    mx.clear_cache()  # or memory that is used again may be larger than what it holds
    before = mx.get_active_memory()
    caches = [PackedKVCache(CASES["affine4"], layer=layer, backend=backend) for layer in range(6)]
    for cache in caches:
        cache.append(prompt, prompt)
        cache.append(token, token)
        mx.eval(cache.state)
    full, beside = caches[0].nbytes, 0
    for step in range(recent.ROOM + 1):
        mx.synchronize()
        mx.clear_cache()
        mx.reset_peak_memory()
        views = [cache.append(token, token) for cache in caches]
        if backend.fused is None:
            mx.eval([cache.state for cache in caches])
        elif step == 0:  # from then on what attends to a layer knows its arrays
            mx.eval([attention.attend(view, queries, 0.2, None) for view in views])
        mx.synchronize()
        beside = max(beside, mx.get_peak_memory() - before - sum(cache.nbytes for cache in caches))
    assert caches[0].nbytes > 1.3 * full
    assert beside < 2 * full
