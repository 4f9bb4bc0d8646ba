"""GGUF to mlx-lm: files that were never seen, in every family and block format, and files that are damaged."""

import contextlib
import json
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from gguf_samples import FAMILIES, write_sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swarm.experiments.models import conversion
from swarm.experiments.models.base import WeightsError
from swarm.experiments.models.gguf import GGUFFile

# Relative error that a block format may have on Gaussian weights, rounding to float16 included.
FORMATS = {"F32": 6e-4, "F16": 6e-4, "BF16": 5e-3, "Q8_0": 1e-2, "Q5_0": 0.06, "Q5_1": 0.06, "Q4_0": 0.12, "Q4_1": 0.12}


def converted(source: Path, folder: Path, **extra: object) -> Path:
    folder.mkdir()
    conversion.convert(source, folder, extra, lambda stage, done, total: None)
    return folder


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample"), "llama", "Q4_0")


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("kind", FORMATS)
def test_weights_come_back_in_their_order(tmp_path, architecture, kind) -> None:
    import mlx.core as mx

    source = write_sample(tmp_path, architecture, kind, seed=len(kind))
    folder = converted(source, tmp_path / "out", sliding_window_pattern=2)
    origin = mx.load(str(tmp_path / "origin" / "model.safetensors"))
    found = mx.load(str(folder / "model.safetensors"))
    config = json.loads((folder / "config.json").read_text())
    if config["tie_word_embeddings"]:
        origin.pop("lm_head.weight", None)
    assert set(found) == set(origin)
    for name, value in origin.items():
        expected, actual = np.array(value), np.array(found[name].astype(mx.float32))
        assert np.linalg.norm(actual - expected) <= FORMATS[kind] * np.linalg.norm(expected), name


@pytest.mark.parametrize("architecture", FAMILIES)
def test_the_converted_model_computes_what_the_original_does(tmp_path, architecture) -> None:
    import mlx.core as mx
    from mlx_lm.utils import load_model

    source = write_sample(tmp_path, architecture, seed=3)
    folder = converted(source, tmp_path / "out", sliding_window_pattern=2, query_pre_attn_scalar=256)
    tokens = mx.array(np.random.default_rng(1).integers(0, 288, (2, 60)))
    logits = []
    for path in (tmp_path / "origin", folder):
        model, config = load_model(path)
        model.set_dtype(mx.float32)
        logits.append(np.array(model(tokens)))
    assert config["model_type"] == FAMILIES[architecture]
    np.testing.assert_allclose(logits[1], logits[0], atol=0.02 * np.abs(logits[0]).max())


def test_rotary_pairs_become_rotary_halves(tmp_path) -> None:
    """llama.cpp rotates neighbouring channels, mlx-lm halves: the scores must be the same."""
    import mlx.core as mx

    source = write_sample(tmp_path, "llama")
    folder = converted(source, tmp_path / "out")
    ours = mx.load(str(folder / "model.safetensors"))
    x = mx.random.normal((1, 16, 128))
    with GGUFFile(source) as stored:

        def projected(matrix: mx.array, heads: int, traditional: bool) -> mx.array:
            out = (x @ matrix.astype(mx.float32).T).reshape(1, 16, heads, 32).transpose(0, 2, 1, 3)
            return mx.fast.rope(out, 32, traditional=traditional, base=1e4, scale=1.0, offset=7)

        def scores(q: mx.array, k: mx.array, traditional: bool) -> np.ndarray:
            queries, keys = projected(q, 4, traditional), projected(k, 2, traditional)
            return np.array(queries[:, ::2] @ keys.transpose(0, 1, 3, 2))

        theirs = scores(*(mx.array(stored.array(f"blk.1.attn_{side}.weight")) for side in "qk"), True)
    prefix = "model.layers.1.self_attn"
    found = scores(ours[f"{prefix}.q_proj.weight"], ours[f"{prefix}.k_proj.weight"], False)
    np.testing.assert_allclose(found, theirs, atol=2e-3 * np.abs(theirs).max())


def test_the_same_file_converts_to_the_same_bytes(tmp_path, sample) -> None:
    first, second = converted(sample, tmp_path / "a"), converted(sample, tmp_path / "b")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes()


def test_progress_ends_at_the_total(tmp_path, sample) -> None:
    seen = []
    (tmp_path / "out").mkdir()
    conversion.convert(sample, tmp_path / "out", {}, lambda *step: seen.append(step))
    assert [step[1] for step in seen] == sorted(step[1] for step in seen)
    assert seen[-1][1] == seen[-1][2] > 0


def read_all(path: Path) -> None:
    with GGUFFile(path) as file:
        for name in file.tensors:
            file.array(name)


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_a_cut_file_is_refused(tmp_path, sample, share) -> None:
    data = sample.read_bytes()
    path = tmp_path / "cut.gguf"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match=r"cut\.gguf"):
        read_all(path)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 12_000), value=st.binary(min_size=1, max_size=8))
def test_a_scribbled_header_is_refused_or_harmless(tmp_path, sample, at, value) -> None:
    data = bytearray(sample.read_bytes())
    data[at : at + len(value)] = value
    path = tmp_path / "scribbled.gguf"
    path.write_bytes(data)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(WeightsError):
        converted(path, Path(folder) / "out")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model at all", b"GGUF" + struct.pack("<IQQ", 1, 0, 0)])
def test_what_is_not_gguf_is_refused(tmp_path, content) -> None:
    path = tmp_path / "file.gguf"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"file\.gguf is damaged"):
        read_all(path)


def test_an_unsupported_tokenizer_is_named(tmp_path) -> None:
    for option, value in (("model", "bert"), ("pre", "tekken")):
        folder = tmp_path / option
        folder.mkdir()
        with pytest.raises(WeightsError, match=value):
            converted(write_sample(folder, "llama", **{option: value}), folder / "out")
