import json
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from scipy.special import log_softmax
from tiny_models import FAMILIES

from swarm.experiments.artifacts import Capture
from swarm.experiments.measurement import prefill
from swarm.experiments.measurement.decode import WINDOWS, tail_tokens
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.models import registry
from swarm.experiments.protocols import base as protocols
from swarm.experiments.spec import TrialSpec
from swarm.kernels import arrays, attention
from swarm.kernels.codec import Codec
from swarm.kernels.model_cache import make_cache
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec

RUNS = (("quality", 0), ("quality", 1), ("attention", 0), ("depth", 0))
ERROR = {"quality": "kld", "attention": "attention_kl", "depth": "kld"}
CONTEXT = 96


def affine(bits, **fields):
    quant = QuantSpec(method="affine", bits=bits, group_size=32)
    return KVSpec(key=quant, value=quant, **fields)


SEGMENTED = (
    pytest.param(affine(4), marks=pytest.mark.slow, id="plain"),
    pytest.param(affine(2, sink_tokens=3, residual_window=10), id="segments"),
)


@pytest.fixture
def measure(runner, tiny_models):
    def run(family, kv=None, **fields):
        name = tiny_models.get(family, family)
        return runner.run(TrialSpec(**{"model": name, "context": CONTEXT, "kv": kv or KVSpec(), **fields}))

    return run


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("protocol", "rung"), RUNS)
def test_the_16_bit_run_has_no_error_and_more_bits_have_less(measure, family, protocol, rung):
    exact = measure(family, protocol=protocol, rung=rung)
    assert exact[ERROR[protocol]] == 0
    assert exact["bits_per_value"] == exact["bits_per_value_limit"] == 16
    errors = [measure(family, affine(bits), protocol=protocol, rung=rung)[ERROR[protocol]] for bits in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] > 0
    half = measure(family, affine(4), protocol=protocol, rung=rung, layers=(0, 1))
    assert half[ERROR[protocol]] > 0


@pytest.mark.parametrize(("protocol", "rung"), RUNS)
def test_every_protocol_reports_what_it_promises(measure, protocol, rung):
    found = measure("qwen3", affine(4), protocol=protocol, rung=rung)
    names = {metric.name for metric in found.metrics}
    shared = {"bits_per_value", "bits_per_value_limit"}
    scores = {"kld", "kld_p50", "kld_p90", "kld_p99", "kld_max", "same_top1", "rms_dp", "ln_ppl_ratio", "noise_kld"}
    errors = {"logit_rel_error", "output_rel_error", "attention_kl", "g", "key_rel_mse", "value_rel_mse"}
    promised = {"quality": scores, "depth": scores | {"hidden_rel_error", "hidden_growth"}, "attention": errors}
    assert names == promised[protocol] | shared
    assert f"{WINDOWS} windows of {CONTEXT} tokens" in found.notes
    assert protocols.protocol(protocol).rungs[rung] in found.notes
    for metric in found.metrics:
        assert metric.stderr is None or metric.stderr >= 0
        series = found.arrays.get(f"window_{metric.name}")
        if series is not None:
            assert len(series) == metric.n == WINDOWS
            assert np.mean(series) == pytest.approx(metric.value)
    for name, series in found.arrays.items():
        if name.startswith("layer_"):
            assert len(series) == 4 * (4 if name == "layer_head_g" else 1)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_noise_floor_is_rounding(measure, family):
    for rung in (0, 1):
        noise = measure(family, rung=rung)["noise_kld"]
        assert 0 < noise < 1e-4 < measure(family, affine(2), rung=rung)["kld"]


def windows(runner, name, context, start, step):
    loaded = registry.load(name)
    text = runner.corpus.windows(loaded.tokenizer, context + 1, 2 * WINDOWS, 0, split="scored", bos=loaded.info.bos)
    return loaded.model, text[start::step]


def token_by_token(model, tokens, caches, start):
    """Logits of every position from `start` on, one token per call."""
    return np.concatenate(
        [np.array(model(mx.array(tokens[:, i : i + 1]), cache=caches)) for i in range(start, tokens.shape[1])], axis=1
    )


def divergence_of(reference, run):
    p_log, q_log = (log_softmax(x.astype(np.float64), -1) for x in (reference, run))
    return (np.exp(p_log) * (p_log - q_log)).sum(-1)


@pytest.mark.parametrize("family", [pytest.param("llama", marks=pytest.mark.slow), "gemma3_text"])
@pytest.mark.parametrize("kv", SEGMENTED)
def test_rung_0_is_decoding_token_by_token_over_a_quantized_prefix(runner, tiny_models, measure, family, kv):
    model, text = windows(runner, tiny_models[family], CONTEXT, 0, 2)
    prefix = CONTEXT - tail_tokens(CONTEXT)
    exact, caches = make_cache(model), make_cache(model, kv, seed=7)
    with attention.record(lambda call: caches[call.layer].append(call.keys, call.values)):
        model(mx.array(text[:, :prefix]), cache=exact)
    expected = divergence_of(*(token_by_token(model, text[:, :CONTEXT], c, prefix) for c in (exact, caches)))
    found = measure(family, kv, seed=7)
    np.testing.assert_allclose(found.arrays["window_kld"], expected.mean(-1), rtol=0.02)
    for cache in caches:
        cache.release()
    held = [(side.live_nbytes * 8, side.values) for cache in caches for side in cache.sides]
    assert found["bits_per_value"] == pytest.approx(np.divide(*np.sum(held, axis=0)))


@pytest.mark.parametrize("family", [pytest.param("qwen3", marks=pytest.mark.slow), "gemma3_text"])
@pytest.mark.parametrize("kv", SEGMENTED)
def test_rung_1_is_reading_token_by_token_into_a_quantized_cache(runner, tiny_models, measure, family, kv):
    model, text = windows(runner, tiny_models[family], CONTEXT, 1, 2)
    runs = [token_by_token(model, text[:, :CONTEXT], make_cache(model, spec, seed=7), 0) for spec in (None, kv)]
    scored = prefill.scored_positions(CONTEXT)
    expected = divergence_of(*(run[:, scored] for run in runs))
    found = measure(family, kv, seed=7, rung=1)
    np.testing.assert_allclose(found.arrays["window_kld"], expected.mean(-1), rtol=0.02)


@pytest.mark.parametrize("context", [2, 3, 5, 64, 65, 512, 1000])
def test_scored_positions_lie_in_the_second_half(context):
    scored = prefill.scored_positions(context)
    assert scored[-1] == context - 1
    assert scored[0] >= context // 2
    assert len(np.unique(scored)) == len(scored) == min(prefill.SCORED, context - context // 2)


@pytest.mark.parametrize(("family", "seed"), list(zip(FAMILIES, (0, 3, 0, 3), strict=True)))
def test_attention_errors_agree_with_dequantized_keys_and_values(runner, tiny_models, measure, family, seed):
    quant = QuantSpec(method="affine", bits=4, group_size=32, rotation="hadamard")
    kv, layer = KVSpec(key=quant, value=quant), 2
    found = measure(family, kv, protocol="attention", layers=(layer,), seed=seed)
    model, text = windows(runner, tiny_models[family], CONTEXT, 0, 2)
    calls = {}
    caches = make_cache(model)
    with attention.record(lambda call: calls.setdefault(call.layer, call)):
        model(mx.array(text[:, :CONTEXT]), cache=caches)
    call, tail = calls[layer], tail_tokens(CONTEXT)
    keys, values = (np.float32(np.float16(arrays.to_numpy(x))) for x in (call.keys, call.values))
    queries = np.array(arrays.to_numpy(call.queries))[:, :, -tail:]
    repeats = queries.shape[1] // keys.shape[1]

    stored = make_cache(model, kv.on((layer,)), seed=seed)[layer]
    stored.append(np.float16(keys), np.float16(values))
    decoded = []
    for side, exact in zip(stored.sides, (keys, values), strict=True):
        codec: Codec = side.codec
        packed = codec.decode(codec.encode(exact))
        decoded.append(codec.rotation.inverse(packed))
    seen = np.tril(np.ones((CONTEXT, CONTEXT), bool))[-tail:]
    if stored.window is not None:
        seen &= ~np.tril(np.ones((CONTEXT, CONTEXT), bool), -stored.window)[-tail:]

    def attend(k, v):
        k, v = (np.repeat(x, repeats, axis=1) for x in (k, v))
        logits = call.scale * np.float64(queries) @ k.swapaxes(-1, -2)
        weights = log_softmax(np.where(seen, logits, -np.inf), -1)
        return np.where(seen, logits, 0), weights, np.exp(weights) @ v

    exact, rough = attend(keys, values), attend(*decoded)

    def relative(i):
        change, size = (np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (rough[i] - exact[i], exact[i]))
        return (change / size).mean()

    assert found["logit_rel_error"] == pytest.approx(relative(0), rel=1e-3)
    assert found["output_rel_error"] == pytest.approx(relative(2), rel=1e-3)
    kl = (np.exp(exact[1]) * np.subtract(exact[1], rough[1], where=seen, out=np.zeros_like(exact[1]))).sum(-1).mean()
    assert found["attention_kl"] == pytest.approx(kl, rel=1e-2)
    relative_mse = ((decoded[0] - keys) ** 2).sum((2, 3)) / (keys**2).sum((2, 3))
    if stored.window is None:
        assert found["key_rel_mse"] == pytest.approx(relative_mse.mean(), rel=1e-3)
        norms = np.linalg.norm(queries, axis=-1).mean(-1), np.linalg.norm(keys, axis=-1).mean(-1)
        factor = np.repeat(norms[1] * np.sqrt(relative_mse / keys.shape[-1]), repeats, axis=1)
        assert found["g"] == pytest.approx((call.scale * norms[0] * factor).mean(), rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_small_errors_obey_the_law_of_g(measure, family):
    """The divergence of attention is about half the variance of the logits' error: G squared, halved."""
    found = measure(family, affine(8), protocol="attention")
    assert 0.1 < found["attention_kl"] / (found["g"] ** 2 / 2) < 10


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layer", [0, 2, 3])
def test_depth_follows_the_error_from_where_it_is_made(measure, family, layer):
    single = measure(family, affine(3), protocol="depth", layers=(layer,))
    errors = single.arrays["layer_hidden_rel_error"]
    assert errors[:layer] == (0.0,) * layer
    assert all(error > 0 for error in errors[layer:])
    assert single["hidden_rel_error"] == errors[-1]
    assert single["hidden_growth"] == pytest.approx(errors[-1] / errors[layer], rel=0.5)
    whole = measure(family, affine(3), layers=(layer,))
    assert {m.name: m.value for m in whole.metrics}.items() <= {m.name: m.value for m in single.metrics}.items()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(1, 2), (3,)])
def test_skipping_what_is_known_changes_no_bit(runner, tiny_models, monkeypatch, family, layers):
    kv = affine(4, residual_window=8)
    spec = TrialSpec(model=tiny_models[family], context=CONTEXT, kv=kv, layers=layers)
    short = runner.run(spec)
    monkeypatch.setattr(Capture, "__init__", _never_enterable(Capture.__init__))
    assert Runner(cache_dir=runner.captures.root.parent).run(spec).metrics == short.metrics


def _never_enterable(original):
    def init(self, path, facts, names):
        original(self, path, {**facts, "enterable": False}, names)

    return init


@pytest.mark.parametrize(("protocol", "rung"), RUNS)
def test_the_logit_gain_changes_both_runs(measure, protocol, rung):
    plain, gained = (measure("llama", affine(4), protocol=protocol, rung=rung, logit_gain=g) for g in (1.0, 3.0))
    assert plain[ERROR[protocol]] != gained[ERROR[protocol]]
    assert measure("llama", protocol=protocol, rung=rung, logit_gain=3.0)[ERROR[protocol]] == 0


def test_g_is_proportional_to_the_logit_gain_on_the_first_layer(measure):
    """The first layer's queries and keys do not depend on the gain."""
    g = [measure("llama", affine(4), protocol="attention", layers=(0,), logit_gain=gain)["g"] for gain in (0.5, 1, 2)]
    assert g[0] * 4 == pytest.approx(g[1] * 2) == pytest.approx(g[2])


def test_folding_the_scale_into_the_weights_changes_nothing(tiny_models, tmp_path, measure):
    """A model with scale 1 and larger query weights is the same model: trials must not see the difference."""
    folded = tmp_path / "folded"
    shutil.copytree(tiny_models["gemma3_text"], folded)
    config = json.loads((folded / "config.json").read_text())
    scale = config.get("query_pre_attn_scalar", 256) ** -0.5
    (folded / "config.json").write_text(json.dumps({**config, "query_pre_attn_scalar": 1}))
    weights = mx.load(str(folded / "model.safetensors"))
    for name, value in weights.items():
        if name.endswith("q_norm.weight"):
            weights[name] = (1 + value) * scale - 1
    mx.save_safetensors(str(folded / "model.safetensors"), weights, {"format": "mlx"})
    for protocol, rung in RUNS:
        runs = [measure(name, affine(4), protocol=protocol, rung=rung) for name in ("gemma3_text", str(Path(folded)))]
        for one, other in zip(runs[0].metrics, runs[1].metrics, strict=True):
            assert one.value == pytest.approx(other.value, rel=0.05, abs=1e-6), one.name


@pytest.mark.parametrize("seed", [0, 1])
def test_the_seed_decides_random_rotations_and_nothing_else(measure, seed):
    def random(seed):
        quant = QuantSpec(method="affine", bits=3, group_size=32, rotation="random")
        return measure("llama", KVSpec(key=quant, value=quant), seed=seed)["kld"]

    assert random(seed) == random(seed) != random(seed + 1)
    assert measure("llama", affine(4), seed=seed).metrics == measure("llama", affine(4), seed=seed + 1).metrics


def test_replicates_and_rungs_read_other_text(measure):
    found = {
        measure("llama", affine(4), replicate=replicate, rung=rung)["kld"] for replicate in (0, 1) for rung in (0, 1)
    }
    assert len(found) == 4


@pytest.mark.parametrize("context", [2, 3, 17])
@pytest.mark.parametrize(("protocol", "rung"), RUNS)
def test_short_contexts_work(measure, protocol, rung, context):
    assert measure("llama", affine(4), protocol=protocol, rung=rung, context=context)["bits_per_value"] == 5


@pytest.mark.parametrize("protocol", ["quality", "attention"])
def test_more_bits_for_the_first_layer_cost_bits_and_lower_the_error(measure, protocol):
    more = LayerOverride(layers=(0,), key=affine(8).key, value=affine(8).value)
    two, mixed = (
        measure("llama", affine(2), protocol=protocol),
        measure("llama", affine(2, overrides=(more,)), protocol=protocol),
    )
    assert mixed["bits_per_value_limit"] == (3 * 3 + 9) / 4
    assert mixed[ERROR[protocol]] < two[ERROR[protocol]]
    if protocol == "attention":
        assert mixed.arrays["layer_key_rel_mse"][0] < 1e-2 * two.arrays["layer_key_rel_mse"][0]
        assert mixed.arrays["layer_key_rel_mse"][1:] == two.arrays["layer_key_rel_mse"][1:]


def test_bits_count_all_layers_and_segments(measure):
    assert measure("llama", affine(4))["bits_per_value"] == 5
    assert measure("llama", affine(4), layers=(0,))["bits_per_value_limit"] == pytest.approx((5 + 3 * 16) / 4)
    assert measure("llama", affine(4), layers=(3,))["bits_per_value"] == pytest.approx((5 + 3 * 16) / 4)
    kept = measure("llama", affine(4, sink_tokens=6, residual_window=18))
    assert kept["bits_per_value"] == pytest.approx((24 * 16 + (CONTEXT - 24) * 5) / CONTEXT)
    assert kept["bits_per_value_limit"] == 5
