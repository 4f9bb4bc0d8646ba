"""Configurations as flags of engines, and flags as configurations."""

from __future__ import annotations

from itertools import product

import pytest

from swarm.experiments.deploy import engine_flags
from swarm.experiments.engines import base
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.kernels.spec import KVSpec

ENGINES = base.engines()


@pytest.mark.parametrize("called", ENGINES)
def test_whatever_an_engine_stores_is_expressed_and_read_back(called):
    engine = ENGINES[called]
    stored = set()
    for values in product(*(setting.values or ("0",) for setting in engine.kv_settings.values())):
        chosen = dict(zip(engine.kv_settings, values, strict=True))
        try:
            stored.add(engine.kv(chosen).label)
        except UsageError:
            assert chosen["value"] != "f16"
    assert "K none V none" in stored
    assert len(stored) > 2
    for label in stored:
        found = engine_flags.express(engine, KVSpec.parse(label))
        assert (found.kv.label, found.lost, found.engine) == (label, (), called)
        if label == "K none V none" and called == "mlx-lm":
            continue  # 16 bit is what it does when nothing is said
        assert engine_flags.read(engine, found.command).kv.label == label


CASES = [
    ("llama.cpp", "affine4/g64 sink4 recent32", "K q4_0 V q4_0", 4),
    ("llama.cpp", "K q8_0+hadamard V q4_0+hadamard", "K q8_0+hadamard V q4_0+hadamard", 0),
    ("llama.cpp", "K affine4/g32 V affine4/g32 -bias [layers 0: K q8_0]", "K q4_1 V q4_1", 4),
    ("mlx-lm", "KV affine4/g64 layers 2-20", "K affine4/g64 V affine4/g64", 1),
    ("ollama", "K none V q4_0", "K none V none", 1),
    ("ollama", "KV affine8/g64", "K q8_0 V q8_0", 2),
    ("vllm", "KV nvfp4 layers 2-28", "K nvfp4 V nvfp4 layers 2-28", 0),
    ("lm-studio", "q4_0", "K q4_0+hadamard V q4_0+hadamard", 2),
]


@pytest.mark.parametrize(("called", "wanted", "nearest", "lost"), CASES)
def test_the_nearest_is_found_and_what_is_lost_is_said(called, wanted, nearest, lost):
    found = engine_flags.express(ENGINES[called], KVSpec.parse(wanted), 30)
    assert found.kv.label == nearest
    assert len(found.lost) == lost


def test_layers_in_16_bit_are_named_where_an_engine_can_skip_them():
    kv = KVSpec.parse("KV nvfp4 layers 1-27")
    assert engine_flags.express(ENGINES["vllm"], kv, 30).command.endswith("--kv-cache-dtype-skip-layers 0 28 29")
    assert engine_flags.express(ENGINES["vllm"], kv).lost == ("16 bit in all layers but 1-27",)


@pytest.mark.parametrize(
    ("called", "flags", "label"),
    [
        ("llama.cpp", "llama-server -m x --cache-type-k=q8_0 -ctv q4_0 -fa -c 99", "K q8_0+hadamard V q4_0+hadamard"),
        ("llama.cpp", "LLAMA_ATTN_ROT_DISABLE=1 llama-server -ctk q5_1", "K q5_1 V none"),
        ("llama-server", "LLAMA_ARG_CACHE_TYPE_K=bf16", "K none V none"),
        ("mlx_lm", "--kv-bits 4 --quantized-kv-start 100", "K affine4/g64 V affine4/g64"),
        ("ollama", "OLLAMA_KV_CACHE_TYPE=q8_0", "K q8_0 V q8_0"),
        ("ollama", "OLLAMA_KV_CACHE_TYPE=q8_0 OLLAMA_FLASH_ATTENTION=0", "K none V none"),
        ("vllm", "vllm serve M --kv-cache-dtype fp8", "K mxfp8 V mxfp8"),
        ("lm-studio", '{"llamaVCacheQuantizationType": "q4_0", "flashAttention": true}', "K none V q4_0+hadamard"),
    ],
)  # fmt: skip
def test_flags_as_people_write_them_are_read(called, flags, label):
    assert engine_flags.read(base.named(called), flags).kv.label == label


def test_that_mlx_begins_late_to_quantize_is_said():
    late = engine_flags.read(ENGINES["mlx-lm"], "--kv-bits 4")
    assert any("until the cache holds 5000 tokens" in note for note in late.notes)
    assert not any("until" in note for note in engine_flags.express(ENGINES["mlx-lm"], late.kv).notes)


@pytest.mark.parametrize(
    ("called", "flags", "said"),
    [
        ("llama.cpp", "-c 4096", "nothing in"),
        ("llama.cpp", "-ctk q3_K", "Expected: f16"),
        ("llama.cpp", "-ctv q4_0 -fa off", "flash attention"),
        ("mlx-lm", "--kv-bits 4 --quantized-kv-start soon", "a number"),
        ("vllm", "--kv-cache-dtype 'fp8", "no command line"),
        ("lm-studio", "{", "no JSON"),
    ],
)
def test_flags_that_make_no_sense_are_refused(called, flags, said):
    with pytest.raises(UsageError) as refused:
        engine_flags.read(ENGINES[called], flags)
    assert said in str(refused.value)


def test_an_engine_that_nobody_knows():
    with pytest.raises(UnknownNameError, match=r"llama\.cpp"):
        base.named("tensorrt")
    with pytest.raises(UsageError, match="nothing is known"):
        engine_flags.express(base.UnknownEngine(), KVSpec())
