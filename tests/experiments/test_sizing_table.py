"""The bundled shapes agree with the models that mlx-lm builds from the same fields."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any

import mlx.core as mx
import pytest

from swarm.experiments.sizing import built, models
from swarm.experiments.sizing.method import parse, per_token
from swarm.kernels import elementwise

# Fields without influence on cache and weights that mlx-lm's configuration classes insist on.
FILLER = {
    "rms_norm_eps": 1e-6,
    "layer_norm_eps": 1e-5,
    "rope_theta": 1e4,
    "rope_scaling": None,
    "sliding_window": None,
    "q_lora_rank": None,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_bias": False,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "moe_layer_freq": 1,
    "use_qk_norm": True,
    "partial_rotary_factor": 0.25,
}
ROPE = {"rope_theta": 1e7, "rope_type": "default", "partial_rotary_factor": 0.25}
YARN = {"type": "yarn", "factor": 40, "mscale": 0.7, "mscale_all_dim": 0.7, "beta_fast": 32, "beta_slow": 1}
OF_FAMILY: dict[str, dict[str, Any]] = {
    "gemma2": {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "query_pre_attn_scalar": 256},
    "llama4_text": {"attn_temperature_tuning": True, "floor_scale": 8192, "attn_scale": 0.1},
    "deepseek_v2": {"rope_scaling": {**YARN, "original_max_position_embeddings": 4096}},
    "qwen3_5_text": {"rope_parameters": ROPE},
    "qwen3_5_moe_text": {"rope_parameters": ROPE},
    "gemma3n_text": {
        "rope_local_base_freq": 1e4,
        "final_logit_softcapping": 30.0,
        "altup_coef_clip": 120.0,
        "altup_correct_scale": True,
        "altup_active_idx": 0,
        "query_pre_attn_scalar": 256,
    },
}
# mlx-lm keeps every token here, or whole heads instead of the latent: more than the architecture needs.
KEEPS_MORE = {"gemma2", "mistral", "phi3", "deepseek_v2"}


def rows() -> list[dict[str, Any]]:
    folder = resources.files("swarm.experiments.sizing").joinpath("shapes")
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".toml")), key=lambda entry: entry.name)
    return [row for entry in files for row in tomllib.loads(entry.read_text())["model"]]


def whole_config(fields: dict[str, Any]) -> dict[str, Any]:
    family = fields["model_type"]
    config = {**FILLER, **OF_FAMILY.get(family, {}), **fields}
    if not family.startswith("gemma"):
        config.setdefault("tie_word_embeddings", False)
    if family == "gemma3n_text":
        n_layers = fields["num_hidden_layers"]
        config["layer_types"] = (["sliding_attention"] * 4 + ["full_attention"]) * (n_layers // 5)
        config["activation_sparsity_pattern"] = [0.95] * 10 + [0.0] * (n_layers - 10)
    nested = family in {"llama4_text", "gemma3n_text", "qwen3_5_text", "qwen3_5_moe_text"}
    return {"model_type": family.removesuffix("_text"), "text_config": config} if nested else config


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["id"])
def test_agrees_with_the_model_that_mlx_lm_builds(row):
    shape = models.find(row["id"])
    real = built.read_here(whole_config(row["config"]), row["id"])
    assert shape.parameters == real.parameters
    assert shape.active_parameters == real.active_parameters
    caching = [layer for layer in shape.layers if layer.kind != "none"]
    if caching != list(real.layers):
        assert row["config"]["model_type"] in KEEPS_MORE
        sixteen = parse("none")
        assert per_token(shape, sixteen, windows_full=True) < per_token(real, sixteen, windows_full=True)
        assert len(caching) == len(real.layers)


def test_reading_a_model_computes_nothing_while_numpy_activations_are_installed():
    """It would need the memory of the whole model: 60 GB for this one."""
    row = next(row for row in rows() if row["id"] == "deepseek-ai/DeepSeek-V2-Lite")
    elementwise.install()  # as loading any model does
    before = mx.get_active_memory()
    built.read_here(whole_config(row["config"]), row["id"])
    assert mx.get_active_memory() - before < 1 << 30


def test_names_are_unambiguous():
    for name, shape in models.table().items():
        assert models.find(name).name == shape.name
