"""Files as they are found in the wild: every right value is worked out by hand in a comment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from swarm.experiments import bounded
from swarm.experiments.sizing import built, config, gguf_metadata, models, weights
from swarm.experiments.sizing.fields import complete
from swarm.experiments.sizing.method import kv_bytes, parse, per_token
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import ModelError

KIB = 1024
SIXTEEN = parse("none")


def token_bytes(shape: ModelShape) -> float:
    return per_token(shape, SIXTEEN, windows_full=True)


def of_gguf(architecture: str, **fields: Any) -> ModelShape:
    named = {f"{architecture}.{key.replace('__', '.')}": value for key, value in fields.items()}
    fields = gguf_metadata.as_config({"general.architecture": architecture, **named}, architecture)
    return config.of_fields(fields, architecture)


KIMI_LINEAR = {
    "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
    "kda_layers": [layer for layer in range(1, 27) if layer % 4],
    "head_dim": 128,
    "num_heads": 32,
    "short_conv_kernel_size": 4,
}
SSM = {"ssm__conv_kernel": 4, "ssm__state_size": 128, "ssm__group_count": 16}


def test_gguf_with_attention_in_every_fourth_layer():
    # 64 layers, every 4th caches: 16 x 2 sides x 4 heads x 256 x 2 B = 64 KiB a token, 16 GiB at 256K.
    sizes = {"attention__head_count": 24, "attention__head_count_kv": 4, "attention__key_length": 256}
    shape = of_gguf(
        "qwen35", block_count=64, embedding_length=5120, context_length=262144, full_attention_interval=4,
        **sizes, attention__value_length=256, **SSM, ssm__time_step_rank=48, ssm__inner_size=6144,
    )  # fmt: skip
    assert token_bytes(shape) == 64 * KIB
    # 48 states of 128 x 6144 and 3 inputs of 6144 + 2 x 16 x 128 channels, 4 B each.
    state = 48 * 4 * (128 * 6144 + 3 * (6144 + 4096))
    assert kv_bytes(shape, SIXTEEN, 262144) == 16 * 2**30 + state


@pytest.mark.parametrize("listed", [[0, 1, 2, 4, 5, 6], [True, True, True, False, True, True, True, False]])
def test_gguf_that_lists_its_recurrent_layers(listed):
    # 2 of 8 layers cache: 2 x 2 x 2 heads x 64 x 2 B = 1 KiB.
    shape = of_gguf(
        "qwen3next", block_count=8, embedding_length=512, context_length=4096, attention__recurrent_layers=listed,
        attention__head_count=8, attention__head_count_kv=2, attention__key_length=64, attention__value_length=64,
        **SSM, ssm__inner_size=1024,
    )  # fmt: skip
    assert token_bytes(shape) == KIB
    assert [bool(layer.state_bytes) for layer in shape.layers] == [i not in (3, 7) for i in range(8)]


def test_gguf_of_short_convolutions():
    # 6 of 16 layers have 8 heads of 2048/32 = 64: 6 x 2 x 8 x 64 x 2 B = 12 KiB; 10 keep 2 inputs of 2048 in 4 B.
    heads = [0, 0, 8, 0, 0, 8, 0, 0, 8, 0, 8, 0, 8, 0, 8, 0]
    shape = of_gguf(
        "lfm2", block_count=16, embedding_length=2048, context_length=128000, attention__head_count=32,
        attention__head_count_kv=heads, shortconv__l_cache=3,
    )  # fmt: skip
    assert token_bytes(shape) == 12 * KIB
    assert sum(layer.state_bytes for layer in shape.layers) == 10 * 2 * 2048 * 4
    assert shape.shared_layers == 0


def test_gguf_with_a_block_that_only_predicts():
    # 47 blocks, one of them predicts: 46 x 2 x 8 x 128 x 2 B = 184 KiB.
    shape = of_gguf(
        "glm4moe", block_count=47, nextn_predict_layers=1, embedding_length=4096, context_length=131072,
        attention__head_count=96, attention__head_count_kv=8, attention__key_length=128, attention__value_length=128,
    )  # fmt: skip
    assert (len(shape.layers), token_bytes(shape)) == (46, 184 * KIB)


def test_gguf_with_keys_and_values_of_two_sizes():
    # 9 of 48 layers see everything: 9 x 4 heads x (192 + 128) x 2 B = 22.5 KiB.
    local = [i not in (0, 5, 11, 17, 23, 29, 35, 41, 47) for i in range(48)]
    shape = of_gguf(
        "mimo2", block_count=48, embedding_length=4096, context_length=262144, attention__head_count=64,
        attention__head_count_kv=[8 if windowed else 4 for windowed in local], attention__key_length=192,
        attention__value_length=128, attention__sliding_window=128, attention__sliding_window_pattern=local,
    )  # fmt: skip
    assert token_bytes(shape) == 22.5 * KIB


def test_gguf_of_latent_attention_before_latents_were_cached():
    # 27 layers x 16 heads x (192 + 128) x 2 B = 270 KiB; a file whose heads share one latent says so: 27 x 576 x 2 B.
    sizes = {"block_count": 27, "embedding_length": 2048, "context_length": 163840, "attention__head_count": 16}
    latent = {"attention__kv_lora_rank": 512, "rope__dimension_count": 64}
    old = of_gguf("deepseek2", **sizes, **latent, attention__head_count_kv=16, attention__key_length=192,
                  attention__value_length=128)  # fmt: skip
    new = of_gguf("deepseek2", **sizes, **latent, attention__head_count_kv=1, attention__key_length=576,
                  attention__value_length=512)  # fmt: skip
    assert (token_bytes(old), token_bytes(new)) == (270 * KIB, 27 * 576 * 2)


def test_gguf_of_kimi_linear():
    # 7 of 27 layers keep a latent of 512 and a rotary key of 64; 20 keep 128 x 4096 and 3 x 3 x 4096 values of 4 B.
    heads = [0, 0, 0, 1] * 6 + [0, 0, 1]
    shape = of_gguf(
        "kimi-linear", block_count=27, embedding_length=2304, context_length=1048576, attention__head_count=32,
        attention__head_count_kv=heads, attention__kv_lora_rank=512, rope__dimension_count=64,
        attention__key_length=576, attention__value_length=512, kda__head_dim=128, ssm__conv_kernel=4,
    )  # fmt: skip
    by_config = {"model_type": "kimi_linear", "hidden_size": 2304, "num_hidden_layers": 27, "num_attention_heads": 32,
                 "kv_lora_rank": 512, "qk_rope_head_dim": 64, "max_position_embeddings": 1048576,
                 "linear_attn_config": KIMI_LINEAR}  # fmt: skip
    assert token_bytes(shape) == 7 * 576 * 2
    assert sum(layer.state_bytes for layer in shape.layers) == 20 * 4 * (128 * 4096 + 9 * 4096)
    assert shape.layers == config.read(by_config, "kimi").layers


@pytest.mark.parametrize(
    ("architecture", "kib"),
    [
        # 12 layers x 2 x 8 heads x 64 x 2 B where every layer sees everything; every 4th: a quarter; every 2nd: half.
        ("olmo2", 6), ("smallthinker", 6), ("exaone4", 6), ("gptoss", 12), ("orion", 24), ("mistral3", 24),
    ],
)  # fmt: skip
def test_gguf_with_a_window_in_no_list(architecture, kib):
    shape = of_gguf(
        architecture, block_count=12, embedding_length=1024, context_length=32768, attention__head_count=16,
        attention__head_count_kv=8, attention__sliding_window=1024,
    )  # fmt: skip
    assert token_bytes(shape) == kib * KIB


def test_gguf_of_rwkv():
    # 12 layers keep 64 x 768 values and 2 inputs of 768, 4 B each.
    shape = of_gguf(
        "rwkv7", block_count=12, embedding_length=768, context_length=4096, attention__head_count=0,
        wkv__head_size=64, token_shift_count=2,
    )  # fmt: skip
    assert token_bytes(shape) == 0
    assert sum(layer.state_bytes for layer in shape.layers) == 12 * 4 * (64 * 768 + 2 * 768)


def test_layers_with_several_caches_are_counted_once():
    # 2 layers keep 1 input of keys and values beside a cache of their heads: 2 x 4 x 2 x 32 x 2 B for the one that
    # sees everything.
    fields = {"model_type": "baichuan_m1", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
              "num_attention_heads": 8, "num_key_value_heads": 4, "num_swa_attention_heads": 8,
              "num_swa_key_value_heads": 4, "sliding_window": 64, "sliding_window_layers": [1], "conv_window": 2,
              "vocab_size": 1000, "max_position_embeddings": 4096, "rope_theta": 1e4, "rms_norm_eps": 1e-6,
              "tie_word_embeddings": False}  # fmt: skip
    shape = built.read_here(fields, "tiny")
    assert [layer.window for layer in shape.layers] == [None, 64]
    assert token_bytes(shape) == 2 * 4 * 32 * 2
    assert all(layer.state_bytes for layer in shape.layers)


@pytest.mark.parametrize(
    ("fields", "kib", "trained"),
    [
        # 12 layers x 2 x 12 heads x 64 x 2 B.
        ({"model_type": "gpt2", "n_layer": 12, "n_head": 12, "n_embd": 768, "n_positions": 1024, "vocab_size": 50257},
         36, 1024),
        # One KV head of 4544/71 = 64: 32 x 2 x 64 x 2 B; 2,048 tokens are the family's default.
        ({"model_type": "falcon", "hidden_size": 4544, "num_attention_heads": 71, "num_hidden_layers": 32,
          "multi_query": True, "new_decoder_architecture": False, "vocab_size": 65024}, 8, 2048),
        # 60 x 2 x 8 x 64 x 2 B.
        ({"model_type": "falcon", "hidden_size": 8192, "num_attention_heads": 128, "num_hidden_layers": 60,
          "num_kv_heads": 8, "new_decoder_architecture": True, "vocab_size": 65024}, 120, 2048),
        # 40 x 2 x 8 x 128 x 2 B.
        ({"model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768,
          "vocab_size": 100352, "attn_config": {"kv_n_heads": 8},
          "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4}}, 160, 32768),
        # A window longer than the context is none: 32 x 2 x 32 x 96 x 2 B.
        ({"model_type": "phi3", "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 131072,
          "sliding_window": 262144, "vocab_size": 32064}, 384, 131072),
        # 15 of 35 layers reuse a cache; of the other 20 every 5th sees everything: 4 x 2 x 2 x 256 x 2 B.
        ({"model_type": "gemma3n", "text_config": {
            "model_type": "gemma3n_text", "hidden_size": 2048, "intermediate_size": [16384] * 35,
            "num_hidden_layers": 35, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 256,
            "max_position_embeddings": 32768, "sliding_window": 512, "num_kv_shared_layers": 15,
            "vocab_size": 262400}}, 8, 32768),
        # Mistral 7B 0.1: mlx-lm holds all tokens despite the window of 4,096: 32 x 2 x 8 x 128 x 2 B.
        ({"model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
          "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 32768,
          "sliding_window": 4096, "vocab_size": 32000}, 128, 32768),
        # Every eighth of 80 layers attends: 10 x 2 x 8 x 128 x 2 B.
        ({"model_type": "minimax_text_01", "hidden_size": 6144, "num_hidden_layers": 80, "num_attention_heads": 64,
          "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 10240000,
          "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10}, 40, 10240000),
        # A latent of 512, a rotary key of 64 and the indexer's key of 128 per layer: 61 x 704 x 2 B.
        ({"model_type": "deepseek_v32", "hidden_size": 7168, "num_hidden_layers": 61, "num_attention_heads": 128,
          "kv_lora_rank": 512, "qk_rope_head_dim": 64, "index_head_dim": 128, "max_position_embeddings": 163840},
         83.875, 163840),
        # 7 of 27 layers keep a latent: 7 x 576 x 2 B.
        ({"model_type": "kimi_linear", "hidden_size": 2304, "num_hidden_layers": 27, "num_attention_heads": 32,
          "head_dim": 72, "kv_lora_rank": 512, "qk_rope_head_dim": 64, "model_max_length": 1048576,
          "linear_attn_config": KIMI_LINEAR}, 7.875, 1048576),
        # 16 of 64 layers see everything: 16 x 2 x 8 x 128 x 2 B.
        ({"model_type": "exaone4", "hidden_size": 5120, "num_hidden_layers": 64, "num_attention_heads": 40,
          "num_key_value_heads": 8, "head_dim": 128, "sliding_window": 4096, "sliding_window_pattern": "LLLG",
          "max_position_embeddings": 131072}, 64, 131072),
        # The layers 0, 4, 8, ... of 52 see everything: 13 x 2 x 4 x 128 x 2 B.
        ({"model_type": "smallthinker", "hidden_size": 2560, "num_hidden_layers": 52, "num_attention_heads": 28,
          "num_key_value_heads": 4, "head_dim": 128, "sliding_window_layout": [0, 1, 1, 1] * 13,
          "sliding_window_size": 4096, "max_position_embeddings": 16384}, 26, 16384),
        # 12 of 45 layers see everything, with 8 KV heads; the list goes on for 3 layers that only predict.
        ({"model_type": "step3p5", "hidden_size": 4096, "num_hidden_layers": 45, "num_attention_heads": 64,
          "num_attention_groups": 8, "head_dim": 128, "sliding_window": 512, "max_position_embeddings": 262144,
          "layer_types": ["full_attention", *["sliding_attention"] * 3] * 12}, 48, 262144),
        # 3 of 32 layers attend: 3 x 2 x 8 x 128 x 2 B.
        ({"model_type": "bamba", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads": 8, "attn_layer_indices": [9, 18, 27], "mamba_n_heads": 128, "mamba_d_head": 64,
          "mamba_d_state": 128, "max_position_embeddings": 262144}, 12, 262144),
        # Heads differ by layer: 2 x (16 x 4 + 8 x 2 + 8 x 1) x 128 x 2 B.
        ({"model_type": "deci", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
          "num_key_value_heads_per_layer": [4] * 16 + [2] * 8 + [1] * 8, "max_position_embeddings": 8192}, 44, 8192),
        # 64 recurrent layers cache nothing.
        ({"model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64, "num_heads": 128, "head_dim": 64,
          "state_size": 128, "n_groups": 8, "vocab_size": 32768}, 0, None),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)  # fmt: skip
def test_config_json_as_it_is_found(tmp_path, fields, kib, trained):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
    shape = models.find(str(path))
    assert token_bytes(shape) == kib * KIB
    assert shape.max_context == trained
    assert shape.parameters is not None


def test_a_window_that_is_not_used_is_said(tmp_path):
    path = tmp_path / "config.json"
    fields = {"model_type": "gemma2", "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": 8192, "sliding_window": 4096}  # fmt: skip
    path.write_text(json.dumps(fields))
    assert any("window of 4096 tokens is declared" in note for note in models.find(str(path)).notes)


def test_a_byte_order_mark_is_read_over(tmp_path):
    # 80 layers x 2 x 8 heads x 128 x 2 B; a linear factor of 2 makes 2,048 tokens 4,096.
    path = tmp_path / "config.json"
    fields = {"model_type": "llama", "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
              "num_attention_heads": 64, "num_key_value_heads": 8, "max_position_embeddings": 2048,
              "rope_scaling": {"factor": 2.0, "type": "linear"}}  # fmt: skip
    path.write_text(json.dumps(fields), encoding="utf-8-sig")
    shape = models.find(str(path))
    assert (token_bytes(shape), shape.max_context) == (320 * KIB, 4096)


@pytest.mark.parametrize(
    ("family", "stated", "rope", "trained"),
    [
        ("qwen2", 32768, {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ("qwen2", 131072, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, 131072),
        ("llama", 131072, {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}, 131072),
        ("llama", 4096, {"type": "dynamic", "factor": 4.0}, 16384),
        ("gemma3_text", 131072, {"rope_type": "linear", "factor": 8.0}, 131072),
        ("phi3", 131072, {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]}, 131072),
        ("llama", 4096, None, 4096),
        ("llama", 4096, {"type": "yarn", "factor": "many"}, 4096),
    ],
)
def test_rope_factors_that_lengthen_the_trained_window(family, stated, rope, trained):
    fields = {"model_type": family, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
              "num_key_value_heads": 2, "max_position_embeddings": stated, "rope_scaling": rope}  # fmt: skip
    assert config.read(fields, "tiny").max_context == trained


def test_a_model_that_computes_while_it_is_looked_at_has_limits(monkeypatch):
    """DBRX counts its experts' tokens in numpy, which computes the model: 132 billion random weights."""
    monkeypatch.setattr(bounded, "MAX_BYTES", 1 << 30)
    monkeypatch.setattr(bounded, "MAX_SECONDS", 120.0)
    fields = {
        "model_type": "dbrx", "vocab_size": 100352, "d_model": 6144, "n_layers": 40, "n_heads": 48,
        "attn_config": {"kv_n_heads": 8, "clip_qkv": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    }  # fmt: skip
    with pytest.raises(ModelError, match=r"needs more than 1 GiB or .* to run dbrx without weights"):
        built.read(fields, "dbrx")


HEADS = {"attention__head_count": 16, "attention__head_count_kv": 4}
SIZES = {"block_count": 12, "embedding_length": 1024, "context_length": 65536, "feed_forward_length": 4096}
CONFIG = {
    "num_hidden_layers": 12, "hidden_size": 1024, "max_position_embeddings": 65536, "intermediate_size": 4096,
    "num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip
LOCAL = [i % 3 != 2 for i in range(12)]
KINDS = ["sliding_attention" if local else "full_attention" for local in LOCAL]
ATTENDING = [0, 0, 4] * 4
MAMBA_2 = {"ssm__conv_kernel": 4, "ssm__inner_size": 2048, "ssm__state_size": 64, "ssm__group_count": 2}
DIMS = {"attention__key_length": 64, "attention__value_length": 64}
# Architecture of GGUF: what the converters of llama.cpp write, and the config.json of the same model.
PAIRS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{name: ({**SIZES, **HEADS}, {**CONFIG, "model_type": family}) for name, family in (
        ("llama", "llama"), ("qwen2", "qwen2"), ("starcoder2", "starcoder2"), ("command-r", "cohere"),
        ("olmo2", "olmo2"), ("stablelm", "stablelm"), ("granite", "granite"), ("internlm2", "internlm2"))},
    **{name: ({**SIZES, **HEADS, "attention__key_length": 128, "attention__value_length": 128},
              {**CONFIG, "model_type": family, "head_dim": 128}) for name, family in (
        ("qwen3", "qwen3"), ("qwen3moe", "qwen3_moe"), ("glm4moe", "glm4_moe"))},
    "phi3": ({**SIZES, **HEADS, "attention__sliding_window": 2048},
             {**CONFIG, "model_type": "phi3", "sliding_window": 2048}),
    "gemma2": ({**SIZES, **HEADS, **DIMS, "attention__sliding_window": 512},
               {**CONFIG, "model_type": "gemma2", "head_dim": 64, "sliding_window": 512}),
    "gemma3": ({**SIZES, **HEADS, **DIMS, "attention__sliding_window": 512},
               {**CONFIG, "model_type": "gemma3_text", "head_dim": 64, "sliding_window": 512}),
    "gemma3n": ({**SIZES, **HEADS, **DIMS, "attention__sliding_window": 512, "attention__shared_kv_layers": 4,
                 "attention__sliding_window_pattern": LOCAL},
                {**CONFIG, "model_type": "gemma3n_text", "head_dim": 64, "sliding_window": 512,
                 "num_kv_shared_layers": 4, "layer_types": KINDS}),
    "gemma4": ({**SIZES, **HEADS, "attention__head_count_kv": [4 if local else 2 for local in LOCAL],
                "attention__key_length": 128, "attention__value_length": 128, "attention__key_length_swa": 64,
                "attention__value_length_swa": 64, "attention__sliding_window": 512,
                "attention__sliding_window_pattern": LOCAL},
               {**CONFIG, "model_type": "gemma4_text", "head_dim": 64, "global_head_dim": 128,
                "num_global_key_value_heads": 2, "sliding_window": 512, "layer_types": KINDS}),
    "cohere2": ({**SIZES, **HEADS, **DIMS, "attention__sliding_window": 512},
                {**CONFIG, "model_type": "cohere2", "sliding_window": 512}),
    "gpt-oss": ({**SIZES, **HEADS, **DIMS, "attention__sliding_window": 128},
                {**CONFIG, "model_type": "gpt_oss", "head_dim": 64, "sliding_window": 128,
                 "layer_types": ["sliding_attention", "full_attention"] * 6}),
    "llama4": ({**SIZES, **HEADS, "attention__chunk_size": 8192},
               {**CONFIG, "model_type": "llama4_text", "head_dim": 64, "attention_chunk_size": 8192}),
    "mimo2": ({**SIZES, **HEADS, "attention__head_count_kv": [8 if local else 4 for local in LOCAL],
               "attention__key_length": 96, "attention__value_length": 64, "attention__sliding_window": 128,
               "attention__sliding_window_pattern": LOCAL},
              {**CONFIG, "model_type": "mimo_v2_flash", "head_dim": 96, "v_head_dim": 64, "swa_head_dim": 96,
               "swa_v_head_dim": 64, "swa_num_key_value_heads": 8, "sliding_window_size": 128,
               "hybrid_layer_pattern": [int(local) for local in LOCAL]}),
    "deepseek2": ({**SIZES, "attention__head_count": 16, "attention__head_count_kv": 1,
                   "attention__kv_lora_rank": 512, "rope__dimension_count": 64, "attention__key_length": 576},
                  {**CONFIG, "model_type": "deepseek_v3", "num_key_value_heads": 16, "kv_lora_rank": 512,
                   "qk_rope_head_dim": 64, "v_head_dim": 128}),
    "lfm2": ({**SIZES, **HEADS, "attention__head_count_kv": ATTENDING, "shortconv__l_cache": 3},
             {**CONFIG, "model_type": "lfm2", "conv_L_cache": 3, "full_attn_idxs": [2, 5, 8, 11]}),
    "qwen3next": ({**SIZES, **HEADS, **DIMS, "full_attention_interval": 4, **SSM, "ssm__inner_size": 2048},
                  {**CONFIG, "model_type": "qwen3_next", "head_dim": 64, "linear_num_key_heads": 16,
                   "linear_key_head_dim": 128, "linear_num_value_heads": 16, "linear_value_head_dim": 128,
                   "linear_conv_kernel_dim": 4, "full_attention_interval": 4}),
    "granitehybrid": ({**SIZES, **HEADS, "attention__head_count_kv": ATTENDING, **MAMBA_2},
                      {**CONFIG, "model_type": "granitemoehybrid", "mamba_d_conv": 4, "mamba_n_heads": 32,
                       "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 2,
                       "layer_types": ["mamba", "mamba", "attention"] * 4}),
    "jamba": ({**SIZES, **HEADS, "attention__head_count_kv": ATTENDING, "ssm__conv_kernel": 4,
               "ssm__inner_size": 2048, "ssm__state_size": 16},
              {**CONFIG, "model_type": "jamba", "mamba_d_conv": 4, "mamba_expand": 2, "mamba_d_state": 16,
               "attn_layer_period": 3, "attn_layer_offset": 2}),
    "nemotron_h": ({**SIZES, **HEADS, "attention__head_count_kv": ATTENDING, "feed_forward_length": [0, 4096, 0] * 4,
                    **MAMBA_2},
                   {**CONFIG, "model_type": "nemotron_h", "conv_kernel": 4, "mamba_num_heads": 32,
                    "mamba_head_dim": 64, "ssm_state_size": 64, "n_groups": 2, "hybrid_override_pattern": "M-*" * 4}),
    "falcon-h1": ({**SIZES, **HEADS, **DIMS, **MAMBA_2},
                  {**CONFIG, "model_type": "falcon_h1", "head_dim": 64, "mamba_d_conv": 4, "mamba_n_heads": 32,
                   "mamba_d_head": 64, "mamba_d_state": 64, "mamba_n_groups": 2}),
}  # fmt: skip


@pytest.mark.parametrize("architecture", PAIRS)
def test_one_model_has_one_plan_by_config_and_by_gguf(architecture):
    metadata, fields = PAIRS[architecture]
    by_gguf, by_config = of_gguf(architecture, **metadata), config.read(fields, architecture)
    assert by_gguf.layers == by_config.layers
    assert by_gguf.max_context == by_config.max_context
    assert by_gguf.shared_layers == by_config.shared_layers


def test_weights_of_a_state_space_model_that_mlx_lm_does_not_build():
    # Mamba Codestral 7B: 64 layers x 3 x 2 x 4096^2, and two tables of 32768 x 4096.
    fields = {"model_type": "mamba2", "hidden_size": 4096, "num_hidden_layers": 64, "vocab_size": 32768,
              "tie_word_embeddings": False}  # fmt: skip
    assert weights.estimated_weights(complete(fields), "mamba")[0] == 64 * 6 * 4096**2 + 2 * 32768 * 4096


def test_what_fails_in_another_process_is_said():
    with pytest.raises(ModelError, match=r"cannot run tiny without weights: json\.decoder\.JSONDecodeError: Expecting"):
        bounded.call("json:loads", "{", what="tiny")


def test_memory_of_the_caller_does_not_count(monkeypatch):
    """As it did: a process starts with the peak of the one that started it."""
    held = bytearray(b"1" * (1 << 20)) * 600
    monkeypatch.setattr(bounded, "MAX_BYTES", 400 << 20)
    assert bounded.call("json:loads", "[1]", what="tiny") == [1]
    assert held
