"""Models that are not bundled: facts read from any mlx-lm family, and refusals that say what to do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swarm.experiments.models import loading, registry
from swarm.experiments.models.base import ModelInfo, WeightsError
from swarm.kernels.errors import ModelError, UnknownNameError

FACTS = {
    "llama": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 32, "scale_kind": "fixed", "key_bias": False},
    "qwen2": {"n_heads": 4, "n_kv_heads": 1, "head_dim": 32, "scale_kind": "fixed", "key_bias": True},
    "qwen3": {"n_heads": 4, "n_kv_heads": 2, "head_dim": 64, "scale_kind": "learned", "key_bias": False},
    "gemma3_text": {"n_heads": 4, "n_kv_heads": 1, "head_dim": 32, "scale_kind": "learned", "key_bias": False},
}

# Families that are only described, from configurations as their publishers write them (sizes made small).
CONFIGS = {
    "phi3": (
        {"num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096, "rope_theta": 1e4},
        {"n_kv_heads": 2, "head_dim": 16, "scale_kind": "fixed", "key_bias": False, "max_context": 4096},
    ),
    "olmo2": (
        {"num_key_value_heads": 4, "head_dim": 16, "max_position_embeddings": 512, "rope_theta": 1e4},
        {"scale_kind": "learned", "n_kv_heads": 4},
    ),
    "stablelm": (
        {
            "num_key_value_heads": 4,
            "max_position_embeddings": 512,
            "rope_theta": 1e4,
            "layer_norm_eps": 1e-5,
            "use_qkv_bias": True,
            "partial_rotary_factor": 0.25,
        },
        {"key_bias": True, "n_kv_heads": 4},
    ),
    "mistral": ({"num_key_value_heads": 2, "rope_theta": 1e6, "max_position_embeddings": 999}, {"max_context": 999}),
}


COMMON = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "rms_norm_eps": 1e-5,
    "vocab_size": 300,
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("family", FACTS)
def test_a_directory_is_described_and_loaded(tiny_models, family) -> None:
    import mlx.core as mx

    info = registry.describe(tiny_models[family])
    expected = {"family": family, "n_layers": 4, "vocab_size": 288, "max_context": 512, **FACTS[family]}
    assert info.model_dump(include=set(expected)) == expected
    assert info.available
    assert not info.bundled
    loaded = registry.load(tiny_models[family])
    assert loaded.info == info
    tokens = mx.array([loaded.tokenizer.encode("some text")])
    assert np.all(np.isfinite(np.array(loaded.model(tokens))))


def test_scales_and_windows_are_those_that_the_layers_use(tiny_models) -> None:
    gemma = registry.describe(tiny_models["gemma3_text"])
    assert gemma.scales == pytest.approx((256**-0.5,) * 4)
    assert gemma.windows == (48, None, 48, None)
    llama = registry.describe(tiny_models["llama"])
    assert llama.scales == pytest.approx((32**-0.5,) * 4)
    assert llama.windows == (None,) * 4


def write_config(folder: Path, tokenizer_of: str, config: dict) -> Path:
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(tokenizer_of) / name, folder)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def described_here(folder: Path) -> ModelInfo:
    """What `describe` has another process find out, whose imports take seconds."""
    return ModelInfo.model_validate(
        registry.facts_without_weights(str(folder), loading.read_config(folder), str(folder))
    )


@pytest.mark.parametrize("family", CONFIGS)
def test_many_families_are_described_from_their_configuration(tiny_models, tmp_path, family) -> None:
    given, expected = CONFIGS[family]
    folder = write_config(tmp_path / family, tiny_models["llama"], {**COMMON, "model_type": family, **given})
    info = described_here(folder)
    expected = {"n_layers": 2, "n_heads": 4, "vocab_size": 300, **expected}
    assert info.model_dump(include=set(expected)) == expected
    assert info.digest == ""


def test_a_description_without_weights_says_that_they_are_missing(tiny_models, tmp_path) -> None:
    folder = write_config(tmp_path / "m", tiny_models["llama"], {**COMMON, "model_type": "phi3", **CONFIGS["phi3"][0]})
    info = registry.describe(str(folder))
    assert not info.available
    assert info == described_here(folder).model_copy(update={"available": False})


LATENT = {
    "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4,
    "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16,
    "v_head_dim": 16, "vocab_size": 96, "max_position_embeddings": 128, "n_routed_experts": 4,
    "num_experts_per_tok": 2, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 2,
    "moe_intermediate_size": 32, "rope_theta": 1e4, "dim_model_base": 16, "scale_depth": 1.4,
    "scale_emb": 1,
}  # fmt: skip
STATE_SPACE = {"state_size": 8, "conv_kernel": 4, "use_bias": False, "use_conv_bias": True, "time_step_rank": 4}
SOFT_CAPPED = {"num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 100}


def test_a_model_without_keys_and_values_is_refused(tiny_models, tmp_path) -> None:
    folder = write_config(tmp_path / "m", tiny_models["llama"], {**COMMON, "model_type": "mamba", **STATE_SPACE})
    with pytest.raises(ModelError, match="keeps no keys and values") as caught:
        registry.describe(str(folder))
    assert "hoose" in caught.value.remedy


def test_latents_are_described_as_what_is_kept(tiny_models, tmp_path) -> None:
    folder = write_config(tmp_path / "m", tiny_models["llama"], {**COMMON, "model_type": "deepseek_v3", **LATENT})
    info = described_here(folder)
    assert info.kinds == ("latent",)
    assert [(layer.kv_heads, layer.key_dim, layer.value_dim) for layer in info.layers] == [(1, 32, 8)] * 2
    assert info.n_heads == 4


def test_capped_logits_are_no_hindrance(tiny_models, tmp_path) -> None:
    folder = write_config(tmp_path / "m", tiny_models["llama"], {**COMMON, "model_type": "gemma2", **SOFT_CAPPED})
    info = described_here(folder)
    assert (info.n_layers, info.head_dim, info.kinds) == (2, 32, ("global",))


def test_the_digest_follows_configuration_and_weights(tiny_models, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(tiny_models["llama"], folder)
    first = registry.describe(str(folder)).digest
    assert first == registry.describe(tiny_models["llama"]).digest
    assert len(first) == 64
    (folder / "tokenizer_config.json").write_text((folder / "tokenizer_config.json").read_text() + "\n")
    assert registry.describe(str(folder)).digest == first
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    second = registry.describe(str(folder)).digest
    assert second != first
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5e4}))
    assert registry.describe(str(folder)).digest not in (first, second)


def test_a_digest_survives_a_cache_that_cannot_be_written(tiny_models, tmp_path, monkeypatch) -> None:
    expected = registry.describe(tiny_models["llama"]).digest
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "file"))
    assert registry.describe(tiny_models["llama"]).digest == expected


def test_weights_are_float32_on_the_cpu_and_packed_weights_stay_packed(tiny_models, tmp_path) -> None:
    import mlx.core as mx
    import mlx.nn as nn
    from mlx.utils import tree_flatten
    from mlx_lm.utils import load_model, save_model

    model, config = load_model(registry.ensure(tiny_models["llama"]))
    model.set_dtype(mx.float16)
    nn.quantize(model, group_size=32, bits=4)
    folder = tmp_path / "packed"
    shutil.copytree(tiny_models["llama"], folder)
    (folder / "model.safetensors").unlink()
    save_model(folder, model)
    (folder / "config.json").write_text(json.dumps({**config, "quantization": {"group_size": 32, "bits": 4}}))
    loaded = registry.load(str(folder))
    for name, array in tree_flatten(loaded.model.parameters()):
        if name.endswith(("norm.weight",)):
            assert array.dtype == (mx.float32 if mx.default_device() == mx.cpu else mx.float16)
    assert loaded.model.model.layers[0].self_attn.q_proj.weight.dtype == mx.uint32
    assert loaded.info.head_dim == 32
    assert np.all(np.isfinite(np.array(loaded.model(mx.array([[1, 2, 3]])).astype(mx.float32))))


def test_loading_does_not_hold_the_model_in_two_float_types(tiny_models, tmp_path) -> None:
    import mlx.core as mx

    folder = Path(shutil.copytree(tiny_models["llama"], tmp_path / "wide"))
    weights = {name: value.astype(mx.float16) for name, value in mx.load(str(folder / "model.safetensors")).items()}
    mx.save_safetensors(str(folder / "model.safetensors"), weights, {"format": "mlx"})
    whole = sum(value.nbytes for value in weights.values())
    largest = max(value.nbytes for value in weights.values())
    del weights
    loading.release_memory()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    model, _ = loading.load_folder(folder)
    factor = 2 if mx.default_device() == mx.cpu else 1
    assert mx.get_active_memory() - before == pytest.approx(factor * whole, rel=0.05)
    assert mx.get_peak_memory() - before < factor * whole + 3 * largest
    del model


@pytest.mark.parametrize("action", [registry.describe, registry.load, registry.ensure], ids=lambda f: f.__name__)
def test_unknown_names_list_the_known(action) -> None:
    for name in ("no-such-model", "./no/such/folder", "", "smollm2-135M"):
        with pytest.raises(UnknownNameError, match="smollm2-135m, gemma3-270m") as caught:
            action(name)
        assert caught.value.exit_code == 2


def test_directories_that_are_no_models_are_refused(tiny_models, tmp_path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ModelError, match=r"no config\.json"):
        registry.load(str(empty))
    for config, reason in (("{}", "not supported"), ("{", "cannot be"), ('{"model_type": "nope"}', "nope")):
        (empty / "config.json").write_text(config)
        with pytest.raises(ModelError, match=reason) as described:
            registry.describe(str(empty))
        with pytest.raises(ModelError) as loaded:
            registry.load(str(empty))
        assert described.value.remedy
        assert loaded.value.remedy


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_truncated_weights_are_refused(tiny_models, tmp_path, share) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_models["llama"], folder)
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: int(share * len(data))])
    with pytest.raises(WeightsError, match="cut"):
        registry.load(str(folder))


def test_weights_of_another_shape_are_refused(tiny_models, tmp_path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(tiny_models["llama"], folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 160}))
    with pytest.raises(ModelError, match="other"):
        registry.load(str(folder))


def test_a_hub_that_cannot_be_reached_is_one_clear_line(tmp_path) -> None:
    script = "\n".join(
        (
            "from swarm.experiments.models import registry",
            "from swarm.kernels.errors import ModelError",
            "for action in (registry.describe, registry.load):",
            "    try: action('someone/some-model')",
            "    except ModelError as error: print(error)",
        )
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("someone/some-model cannot be fetched")
        assert "local directory" in line


def test_a_family_whose_code_ends_the_process_is_refused(monkeypatch, capsys) -> None:
    for module in ("hf_olmo", "mlx_lm.models.olmo"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    with pytest.raises(ModelError, match="olmo models gave up") as raised:
        loading.skeleton({"model_type": "olmo"})
    assert "the line above" in raised.value.remedy
    assert "ai2-olmo" in capsys.readouterr().out
