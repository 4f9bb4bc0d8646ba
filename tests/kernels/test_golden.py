"""What each method and what all of them share compute, compared to the numbers recorded for their `version`."""

import json
from pathlib import Path

import golden
import mlx.nn as nn
import numpy as np
import pytest

from swarm.kernels import plugins
from swarm.kernels.codec import Codec, Factors
from swarm.kernels.key_bias import KeyBias
from swarm.kernels.quantizers import base
from swarm.kernels.rotation import Rotation
from swarm.kernels.spec import KVSpec, QuantSpec, specs

RECORDS = Path(__file__).with_name("golden.json")
HEAD_SIZES = (64, 128)
TOKENS = 256


def vectors(head_dim, seed=0):
    """Keys as models have them: channels of very different size, tokens too. [1, 2, T, D]"""
    rng = np.random.default_rng([seed, head_dim])
    x = rng.standard_normal((1, 2, TOKENS, head_dim)) * np.exp(rng.standard_normal((1, 2, 1, head_dim)))
    return (x * np.exp(0.3 * rng.standard_normal((1, 2, TOKENS, 1))) + 0.2).astype(np.float32)


def variants(name, head_dim):
    """The default of a method, and every other value of each of its options, one at a time."""
    first, *others = specs(name, head_dim)
    fields = first.model_dump()
    return [first, *(other for other in others if sum(other.model_dump()[key] != fields[key] for key in fields) == 1)]


def statistics(spec, head_dim):
    """Relative error of what is restored and of scores, and the mean magnitude of what is restored."""
    side = base.method(spec.method).choices.sides[0]
    x, queries = vectors(head_dim), vectors(head_dim, seed=1)[:, :, :32]
    factors = Factors(np.abs(x).mean(axis=(0, 2)) + 0.1, clip=0.98) if spec.scaling == "learned" else None
    codec = Codec(spec, side, head_dim, seed=7, factors=factors)
    decoded = codec.decode(codec.encode(x))
    restored = codec.output(decoded)
    scores = codec.query(queries).astype(np.float64) @ decoded.swapaxes(-1, -2)
    exact = queries.astype(np.float64) @ x.swapaxes(-1, -2)
    return {
        "error": np.mean((restored - x) ** 2) / np.mean(x**2),
        "score error": np.mean((scores - exact) ** 2) / np.mean(exact**2),
        "magnitude": np.mean(np.abs(restored)),
    }


@pytest.mark.parametrize("name", plugins.names(base.PACKAGE))
def test_a_method_computes_what_its_version_did(name):
    numbers = {
        f"{spec.label}, {spec.axis}, head size {head_dim}: {what}": float(value)
        for head_dim in HEAD_SIZES
        for spec in variants(name, head_dim)
        for what, value in statistics(spec, head_dim).items()
    }
    side = base.method(name).choices.sides[0]
    golden.check(RECORDS, name, base.versions(KVSpec(**{side: QuantSpec(method=name)})), numbers)


def test_what_methods_share_computes_what_its_version_did():
    numbers = {}
    for head_dim in (64, 96):
        x, weights = vectors(head_dim), vectors(head_dim, seed=2)
        for kind in ("hadamard", "random"):
            numbers[f"{kind}, {head_dim}"] = float(np.mean(Rotation(kind, head_dim, seed=3).forward(x) * weights))
    rope = nn.RoPE(64)
    bias = KeyBias(vectors(64)[0, :, 0], rope)
    numbers["key bias"] = float(np.mean(bias.keys(np, 5, 5 + TOKENS) * vectors(64, seed=2)[0]))
    golden.check(RECORDS, "codec", base.versions(KVSpec()), numbers)


def test_versions_are_those_of_all_methods_in_use():
    kv = KVSpec.parse("K kivi4/g32 V q8_0 [layers 0: K affine4/g64]")
    names = ("affine", "kivi", "q8_0")
    assert base.versions(kv) == {"codec": base.CODEC_VERSION, **{name: base.method(name).version for name in names}}


def test_a_record_holds_until_the_version_is_raised(tmp_path, monkeypatch):
    file = tmp_path / "golden.json"
    monkeypatch.delenv("RECORD_GOLDEN", raising=False)
    with pytest.raises(pytest.fail.Exception, match=r"uv run pytest -n 0 tests/kernels/test_golden\.py"):
        golden.check(file, "new", {"new": 1}, {"error": 0.5})
    monkeypatch.setenv("RECORD_GOLDEN", "1")
    golden.check(file, "new", {"new": 1}, {"error": 0.5})
    with pytest.raises(pytest.fail.Exception, match=r"error: 0.5 became 0.6.*raise the `version`"):
        golden.check(file, "new", {"new": 1}, {"error": 0.6})
    monkeypatch.delenv("RECORD_GOLDEN")
    golden.check(file, "new", {"new": 1}, {"error": 0.50001})
    with pytest.raises(pytest.fail.Exception, match="recorded for versions"):
        golden.check(file, "new", {"new": 2}, {"error": 0.6})
    monkeypatch.setenv("RECORD_GOLDEN", "1")
    golden.check(file, "new", {"new": 2}, {"error": 0.6})
    assert json.loads(file.read_text())["new"]["numbers"] == {"error": 0.6}
