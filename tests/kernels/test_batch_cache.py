"""Packed caches of several sequences in one batch, as mlx-lm's own batching drives them."""

import copy

import numpy as np
import pytest
from emulated import Emulated
from families import build

from swarm.kernels.backends import base as backends
from swarm.kernels.batch_cache import PackedBatchCache
from swarm.kernels.cache import PackedKVCache
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec, QuantSpec

BLOCKS = QuantSpec(method="kivi", bits=8, group_size=32)
FINE = QuantSpec(method="affine", bits=8, group_size=32)
CONFIGURATIONS = {
    "16 bit": KVSpec(),
    "codes, sinks and a tail": KVSpec(key=QuantSpec(method="q8_0"), value=FINE, sink_tokens=2, residual_window=9),
    "blocks of tokens": KVSpec(key=BLOCKS, value=BLOCKS),
}
LENGTHS = (5, 41, 70)


def noise(kv):
    """How far logits may be apart: products of other shapes round otherwise, which can turn a code of 8 bits."""
    return 1e-3 if kv == KVSpec() else 2e-2


def prompts(seed, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 89, length).tolist() for length in lengths]


def alone(model, kv, tokens, cuts):
    """Logits [len(tokens), vocabulary] of one sequence that comes in so many tokens at a time."""
    import mlx.core as mx

    caches, out, start = make_cache(model, kv), [], 0
    for size in cuts:
        out.append(np.array(model(mx.array([tokens[start : start + size]]), cache=caches)[0]))
        start += size
    return np.concatenate(out)


def batch(model, kv, count):
    """Caches of a batch of empty sequences, as mlx-lm's server makes them."""
    single = [make_cache(model, kv) for _ in range(count)]
    return [layer[0].merge(list(layer)) for layer in zip(*single, strict=True)]


@pytest.mark.parametrize("kv", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_prompts_give_the_logits_of_each_alone(tiny, family, kv, side):
    check_padded(tiny(family), kv, side)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss", "plamo"])
def test_latents_sinks_and_arrays_are_padded_too(name, side):
    with build.uncompiled():
        check_padded(build.build(name), CONFIGURATIONS["codes, sinks and a tail"], side)


def check_padded(model, kv, side):
    """Three prompts of different length run together, padded on a side, and each alone; then one more token each."""
    import mlx.core as mx

    texts = prompts(1)
    caches, longest = batch(model, kv, 3), max(LENGTHS)
    padding = [longest - length for length in LENGTHS]
    told = {"left_padding": padding} if side == "left" else {"lengths": LENGTHS, "right_padding": padding}
    for cache in caches:
        cache.prepare(**told)
    pads = [[7] * missing for missing in padding]
    rows = [pad + text if side == "left" else text + pad for pad, text in zip(pads, texts, strict=True)]
    parts = [np.array(model(mx.array(rows)[:, low : low + 16], cache=caches)) for low in range(0, longest, 16)]
    got = np.concatenate(parts, axis=1)
    for cache in caches:
        cache.finalize()
        assert [row.offset for row in cache.rows] == list(LENGTHS)
    after = np.array(model(mx.array([[3], [4], [5]]), cache=caches))
    for i, (text, missing) in enumerate(zip(texts, padding, strict=True)):
        low = missing if side == "left" else 0
        first = (16 - low % 16) % 16 or 16  # where the padding leaves this sequence's first chunk
        cuts = [size for size in (min(first, len(text)), *[16] * 5) if size]
        want = alone(model, kv, [*text, 3 + i], [*_cut(len(text), cuts), 1])
        assert np.abs(got[i, low : low + len(text)] - want[:-1]).max() < noise(kv)
        assert np.abs(after[i, 0] - want[-1]).max() < noise(kv)


def _cut(length, sizes):
    cuts = []
    for size in sizes:
        cuts.append(min(size, length - sum(cuts)))
    return [size for size in cuts if size]


@pytest.mark.parametrize(("seed", "kv"), list(enumerate(CONFIGURATIONS.values())), ids=CONFIGURATIONS)
def test_mlx_lm_generates_for_clients_that_come_and_go_what_each_gets_alone(tiny, family, kv, seed):
    check_clients(tiny(family, seed), kv, prompts(seed))


@pytest.mark.slow
def test_clients_whose_sequences_lie_side_by_side_come_and_go_too(tiny, monkeypatch):
    """The fused kernels in the host emulation; tests of rows that are aligned are the short form."""
    device = Emulated(launch=1e9, level=1)
    monkeypatch.setattr(backends, "current", lambda: device)
    check_clients(tiny("llama", 3), KVSpec(key=QuantSpec(method="q8_0"), value=FINE), prompts(3, (35, 41, 70)))
    assert device.joined > 0


def check_clients(model, kv, texts):
    """One client is there from the start, one comes later with a prefix in its cache, one leaves in the middle."""
    from mlx_lm.generate import BatchGenerator

    generator = BatchGenerator(model, max_tokens=20, prefill_step_size=16)
    empty = [make_cache(model, kv) for _ in range(2)]
    first, leaving = generator.insert([texts[0], texts[2]], caches=empty)
    got = {}
    for step in range(60):
        if step == 4:
            prefix = make_cache(model, kv)
            alone_in(model, prefix, texts[1][:24], [16, 8])
            kept = [copy.deepcopy(cache) for cache in prefix]
            (late,) = generator.insert([texts[1][24:]], caches=[kept], all_tokens=[texts[1][:24]])
        if step == 9:
            generator.remove([leaving])
        for answer in generator.next()[1]:
            got.setdefault(answer.uid, []).append(answer)
    generator.close()
    assert len(got[first]) == len(got[late]) == 20
    assert 0 < len(got[leaving]) < 20
    cuts_of = {first: _steps(len(texts[0])), late: [16, 8, *_steps(len(texts[1]) - 24)], leaving: _steps(len(texts[2]))}
    for (uid, cuts), text in zip(cuts_of.items(), (texts[0], texts[1], texts[2]), strict=True):
        assert_same_until_a_tie(model, kv, text, cuts, got[uid])
        if uid != leaving:
            held = got[uid][-1].prompt_cache
            assert got[uid][-1].all_tokens[: len(text)] == text
            assert [cache.offset for cache in held] == [len(got[uid][-1].all_tokens)] * len(held)
            assert all(isinstance(cache, PackedKVCache) for cache in held)
    assert all(cache.offset == 24 for cache in prefix)


def _steps(length):
    """How a prompt comes in: the last token begins the answer."""
    return [*_cut(length - 1, [16] * 5), 1]


def alone_in(model, caches, tokens, cuts):
    import mlx.core as mx

    start = 0
    for size in cuts:
        out = model(mx.array([tokens[start : start + size]]), cache=caches)
        start += size
    return np.array(out[0, -1])


def assert_same_until_a_tie(model, kv, text, cuts, answers):
    """The tokens of a greedy run alone, up to where two tokens are as likely within rounding."""
    caches = make_cache(model, kv)
    logits = alone_in(model, caches, text, cuts)
    for answer in answers:
        if int(logits.argmax()) != answer.token:
            assert logits.max() - logits[answer.token] < noise(kv)
            return
        logprobs = np.array(answer.logprobs)
        assert np.abs(logprobs - (logits - np.logaddexp.reduce(logits))).max() < noise(kv)
        logits = alone_in(model, caches, [answer.token], [1])


def test_masks_that_a_model_asks_for_follow_each_sequence(vectors):
    """A window that the cache does not have, and an array asked for: right-aligned, hidden where a row has less."""
    rows = [PackedKVCache(), PackedKVCache()]
    for row, tokens in zip(rows, (3, 6), strict=True):
        x = vectors((1, 1, tokens, 32))
        row.append(x, x)
    cache = PackedBatchCache(rows)
    assert cache.make_mask(1) is None
    assert cache.make_mask(4) == "causal"
    for options in ({"return_array": True}, {"window_size": 4}):
        made = np.array(cache.make_mask(2, **options))
        assert made.shape == (2, 1, 2, 8)
        for i, row in enumerate(rows):
            own = np.array(row.make_mask(2, True, options.get("window_size")))
            assert (made[i, 0, :, 8 - own.shape[-1] :] == own).all()
            assert not made[i, 0, :, : 8 - own.shape[-1]].any()


def test_copies_share_memory_until_one_grows(vectors):
    kv = CONFIGURATIONS["codes, sinks and a tail"]
    cache, twin = PackedKVCache(kv), PackedKVCache(kv)
    x, y, z = (vectors((1, 2, 90, 32), seed) for seed in range(3))
    cache.append(x, x)
    twin.append(x, x)
    other = copy.deepcopy(cache)
    for first, second, added in ((cache, None, y), (other, twin, z)):
        first.append(added, added)
        if second is not None:
            second.append(added, added)
    for side, want in zip(other.sides, twin.sides, strict=True):
        got, expected = side.state(), want.state()
        assert all((np.array(got["arrays"][name]) == np.array(part)).all() for name, part in expected["arrays"].items())
    assert cache.offset == other.offset == 180


def test_an_accelerator_reads_sequence_by_sequence(tiny, monkeypatch):
    """The fused kernels in the host emulation: codes of every sequence, and no padding."""
    device = Emulated()
    monkeypatch.setattr(backends, "current", lambda: device)
    check_padded(tiny("llama"), CONFIGURATIONS["codes, sinks and a tail"], "right")
    assert device.taken > 0
