"""Models and machines are found by path and by name, and errors name the remedy."""

from __future__ import annotations

import json

import pytest

from swarm.experiments.sizing import machines, models
from swarm.experiments.sizing.units import parse_gigabytes, parse_tokens, tokens
from swarm.kernels.errors import ModelError, SwarmError, UnknownNameError, UsageError
from swarm.kernels.layer_shape import LayerShape

LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
QWEN = {"model_type": "qwen2"}


def write(folder, config):
    folder.mkdir(exist_ok=True)
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return path


def test_a_config_json(tmp_path):
    shape = models.find(str(write(tmp_path / "tiny", LLAMA)))
    assert (shape.name, len(shape.layers), shape.max_context) == ("tiny", 3, 2048)
    assert shape.layers[0] == LayerShape(kv_heads=2, key_dim=64, value_dim=64)
    per_layer = 256 * 256 * 2 + 256 * 128 * 2 + 3 * 256 * 512 + 2 * 256
    assert shape.parameters == 1000 * 256 + 3 * per_layer + 256


def test_a_directory_with_weights_counts_its_files(tmp_path):
    write(tmp_path, {**LLAMA, "quantization": {"bits": 4, "group_size": 32}})
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"x" * 1000)
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(b"x" * 234)
    shape = models.find(str(tmp_path))
    assert shape.weight_bytes == 1234
    assert shape.weights_bits == 5.0


def test_multi_modal_configs_are_read_through_their_text_part(tmp_path):
    text = {"model_type": "gemma3_text", "hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}
    config = {"model_type": "gemma3", "text_config": {**text, "sliding_window": 1024}, "vocab_size": 262208}
    shape = models.find(str(write(tmp_path, config)))
    assert shape.groups == models.find("gemma-3-4b").groups


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        # mlx-lm keeps every token of Mistral, Qwen 2 and Gemma 2, so their windows free no memory.
        ({"model_type": "mistral", "sliding_window": 100}, [None] * 3),
        ({"model_type": "mistral", "sliding_window": None}, [None] * 3),
        ({"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}, [None] * 3),
        ({**QWEN, "sliding_window": 64, "use_sliding_window": True, "max_window_layers": 2}, [None] * 3),
        ({"model_type": "gemma2", "sliding_window": 64}, [None] * 3),
        ({"model_type": "cohere2", "sliding_window": 64, "sliding_window_pattern": 2}, [64, None, 64]),
        ({"sliding_window": 9, "layer_types": ["full_attention", *["sliding_attention"] * 2]}, [None, 9, 9]),
        ({"model_type": "gemma3_text", "sliding_window": 64, "sliding_window_pattern": 3}, [64, 64, None]),
    ],
)  # fmt: skip
def test_windows_by_family(tmp_path, changes, windows):
    shape = models.find(str(write(tmp_path, {**LLAMA, **changes})))
    assert [layer.window for layer in shape.layers] == windows


def test_a_family_unknown_here_is_read_off_the_model_that_mlx_lm_builds(tmp_path):
    mamba = {
        "model_type": "mamba",
        "vocab_size": 1000,
        "hidden_size": 64,
        "intermediate_size": 128,
        "state_size": 16,
        "num_hidden_layers": 2,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    }
    shape = models.find(str(write(tmp_path, mamba)))
    assert [layer.kv_heads for layer in shape.layers] == [0, 0]
    assert all(layer.state_bytes > 0 for layer in shape.layers)
    olmo = {**LLAMA, "model_type": "olmo3", "sliding_window": 64, "rope_theta": 1e4, "num_hidden_layers": 4}
    assert [layer.window for layer in models.find(str(write(tmp_path, olmo))).layers] == [64, 64, 64, None]


def test_a_family_that_nobody_knows_is_read_as_plain_attention_and_says_so(tmp_path):
    shape = models.find(str(write(tmp_path, {**LLAMA, "model_type": "fresh"})))
    assert len(shape.layers) == 3
    assert any("'fresh' is not known" in note for note in shape.notes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": None},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": "3"},
        {"num_attention_heads": -1},
        {"num_key_value_heads": 3},
        {"hidden_size": True},
    ],
)
def test_a_config_without_sense_is_refused(tmp_path, changes):
    with pytest.raises(ModelError, match=next(iter(changes)).replace("num_key_value_heads", "KV heads")):
        models.find(str(write(tmp_path, {**LLAMA, **changes})))


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00\x01", '"x"'])
def test_a_damaged_config_is_refused(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    with pytest.raises(ModelError, match=r"config\.json"):
        models.find(str(path))


def gguf_file(path, *, tensor="token_embd.weight", **metadata):
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    writer.add_name("Tiny 1")
    for key, value in metadata.items():
        add = writer.add_array if isinstance(value, list) else writer.add_uint32
        add(f"{writer.arch}.{key.replace('__', '.')}", value)
    writer.add_tensor(tensor, np.zeros((1000, 256), np.float16))
    writer.add_tensor(f"{tensor}_norm", np.zeros(256, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


PLAIN = {
    "block_count": 3,
    "embedding_length": 256,
    "feed_forward_length": 512,
    "context_length": 2048,
    "attention__head_count": 4,
    "attention__head_count_kv": 2,
}


def test_a_gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_file(path, **PLAIN)
    shape = models.find(str(path))
    assert (shape.name, shape.parameters, shape.weight_bytes) == ("Tiny 1", 256_256, 513_024)
    assert [layer.key_dim for layer in shape.layers] == [64] * 3
    assert models.find(str(tmp_path)).layers == shape.layers


def test_windows_of_a_gguf_file(tmp_path):
    path = tmp_path / "tiny.gguf"
    windows = {"attention__sliding_window": 32, "attention__sliding_window_pattern": [True, False, True]}
    gguf_file(path, architecture="gemma3", **PLAIN, **windows, attention__key_length=128)
    shape = models.find(str(path))
    assert [layer.window for layer in shape.layers] == [32, None, 32]
    assert shape.layers[0].key_dim == 128


def test_layers_of_a_gguf_file_that_differ(tmp_path):
    """Gemma 4: layers with a window have more and smaller heads than those that see everything."""
    path = tmp_path / "tiny.gguf"
    sizes = {"attention__key_length": 128, "attention__key_length_swa": 64, "attention__head_count_kv": [2, 2, 1]}
    windows = {"attention__sliding_window": 32, "attention__sliding_window_pattern": [True, True, False]}
    gguf_file(path, architecture="gemma4", **{**PLAIN, **sizes, **windows})
    found = [(layer.kv_heads, layer.key_dim, layer.value_dim, layer.window) for layer in models.find(str(path)).layers]
    assert found == [(2, 64, 64, 32), (2, 64, 64, 32), (1, 128, 128, None)]


def test_layers_of_a_gguf_file_without_heads_cache_nothing(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_file(path, architecture="lfm2", **{**PLAIN, "attention__head_count_kv": [0, 2, 0]})
    assert [layer.kv_heads for layer in models.find(str(path)).layers] == [0, 2, 0]


def test_all_parts_of_a_split_gguf_are_counted(tmp_path):
    for part in (1, 2):
        gguf_file(tmp_path / f"tiny-0000{part}-of-00002.gguf", tensor=f"part{part}", **PLAIN)
    assert models.find(str(tmp_path / "tiny-00001-of-00002.gguf")).weight_bytes == 2 * 513_024
    (tmp_path / "tiny-00002-of-00002.gguf").unlink()
    with pytest.raises(ModelError, match="1 of 2 parts"):
        models.find(str(tmp_path / "tiny-00001-of-00002.gguf"))


def test_a_damaged_gguf_is_refused(tmp_path):
    path = tmp_path / "tiny.gguf"
    gguf_file(path, **PLAIN)
    for length in (0, 3, 20, 100, path.stat().st_size - 1):
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(path.read_bytes()[:length])
        with pytest.raises(ModelError, match=r"cut\.gguf"):
            models.find(str(cut))


def test_a_hugging_face_id_in_the_local_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--some--tiny"
    write_to = repo / "snapshots" / "abc"
    write_to.mkdir(parents=True)
    write(write_to, LLAMA)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    shape = models.find("some/tiny")
    assert (shape.name, len(shape.layers)) == ("some/tiny", 3)
    assert "cache" in shape.source


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama 3.1 8b", "meta-llama/Llama-3.1-8B"),
        ("mlx-community/Meta-Llama-3.1-8B-Instruct-4bit", "meta-llama/Llama-3.1-8B"),
        ("llama3.1:8b-instruct-q4_K_M", "meta-llama/Llama-3.1-8B"),
        ("gemma3:27b", "google/gemma-3-27b"),
        ("smollm2-135m", "HuggingFaceTB/SmolLM2-135M"),
        ("gemma3-270m", "google/gemma-3-270m"),
        ("qwen2.5-coder-0.5b", "Qwen/Qwen2.5-0.5B"),
        ("qwen2.5-coder-1.5b", "Qwen/Qwen2.5-1.5B"),
        ("qwen3 30b", "Qwen/Qwen3-30B-A3B"),
        ("Qwen/Qwen3-4B-Instruct-2507-FP8", "Qwen/Qwen3-4B-Instruct-2507"),
    ],
)
def test_models_by_the_names_people_write(name, found):
    assert models.find(name).name == found


@pytest.mark.parametrize("name", ["lama 3.1", "", "gpt-7", "\x00", "x" * 300])
def test_an_unknown_model_gets_the_nearest_names(name):
    with pytest.raises(UnknownNameError, match=r"Known: .+config\.json"):
        models.find(name)


def test_an_id_that_is_not_on_this_machine_says_how_it_gets_there():
    with pytest.raises(ModelError, match=r"neither in the bundled table.*hf download no/such config\.json"):
        models.find("no/such")


def test_a_name_of_several_models_asks_which():
    with pytest.raises(ModelError, match=r"Mixtral-8x22B.*Mixtral-8x7B.*Say which"):
        models.find("mixtral")
    with pytest.raises(ModelError, match="no file"):
        models.find("./missing/config.json")


@pytest.mark.parametrize(
    ("name", "memory", "usable", "bandwidth"),
    [
        ("M4 Max", 64, 48, 546),
        ("apple m4 max", 36, 27, 410),
        ("m1", 16, 16 * 2 / 3, 68.25),
        ("rtx 4090", None, 24, 1008),
        ("4090", None, 24, 1008),
        ("h100", None, 80, 3350),
        ("2x h200", None, 282, 9600),
        ("a100", 40, 40, 1555),
    ],
)
def test_machines_by_name(name, memory, usable, bandwidth):
    found = machines.find(name, memory)
    assert found.usable / machines.GIB == pytest.approx(usable)
    assert found.bandwidth == pytest.approx(bandwidth * 1e9)


def test_machines_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="M1, M2"):
        machines.find("m9")
    with pytest.raises(UsageError, match="36, 48, 64, 128 GB"):
        machines.find("m4 max")
    with pytest.raises(UsageError, match="not sold with 50 GB"):
        machines.find("m4 max", 50)
    for memory in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError):
            machines.of_memory(memory)


@pytest.mark.parametrize(
    ("name", "megabytes", "bandwidth"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, 3350),
        ("NVIDIA A100-SXM4-80GB", 81920, 2039),
        ("NVIDIA A100-SXM4-40GB", 40960, 1555),
        ("NVIDIA GeForce RTX 4090", 24564, 1008),
        ("Apple M3 Max", 65536, 400),
        ("Something New", 1000, None),
    ],
)
def test_machines_that_introduce_themselves(name, megabytes, bandwidth):
    found = machines.introduced(name, megabytes << 20)
    assert found.memory == megabytes << 20
    assert found.bandwidth == (bandwidth and bandwidth * 1e9)


def test_this_machine_has_memory():
    assert machines.this().usable > 0
    assert machines.this(100).bandwidth == 100e9


@pytest.mark.parametrize("count", [1, 512, 1024, 16 << 10, 131072, 1 << 20, 10 << 20])
def test_round_token_counts_are_read_back(count):
    assert parse_tokens(tokens(count)) == count


@pytest.mark.parametrize("text", ["", "0", "-1", "k", "1e3", "128KB", "ten"])
def test_other_token_counts_are_refused(text):
    with pytest.raises(SwarmError):
        parse_tokens(text)


def test_memory_as_people_write_it():
    assert [parse_gigabytes(text) for text in ("64", "64GB", "64 GiB", "1.5g")] == [64, 64, 64, 1.5]
    for text in ("", "0", "64 MB", "-3", "GB"):
        with pytest.raises(UsageError):
            parse_gigabytes(text)


def test_a_folder_with_a_model_and_its_image_encoder(tmp_path):
    gguf_file(tmp_path / "tiny-Q4_K_M.gguf", **PLAIN)
    gguf_file(tmp_path / "mmproj-tiny-f16.gguf", architecture="clip")
    assert len(models.find(str(tmp_path)).layers) == 3
    gguf_file(tmp_path / "tiny-Q8_0.gguf", **PLAIN)
    with pytest.raises(ModelError, match=r"2 models: tiny-Q4_K_M\.gguf, tiny-Q8_0\.gguf"):
        models.find(str(tmp_path))


def ollama_model(root, place, tag):
    """Put a model where Ollama keeps one; the blob has no ending."""
    digest = "sha256:" + "ab" * 32
    blob = root / "blobs" / digest.replace(":", "-")
    blob.parent.mkdir(parents=True, exist_ok=True)
    gguf_file(blob.with_suffix(".gguf"), **PLAIN)
    blob.with_suffix(".gguf").rename(blob)
    manifest = root / "manifests" / place / tag
    manifest.parent.mkdir(parents=True)
    layers = [{"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:0"},
              {"mediaType": "application/vnd.ollama.image.model", "digest": digest}]  # fmt: skip
    manifest.write_text(json.dumps({"layers": layers}))
    return blob


@pytest.mark.parametrize(
    ("place", "tag", "names"),
    [
        ("registry.ollama.ai/library/mine", "latest", ["mine", "mine:latest"]),
        ("registry.ollama.ai/someone/mine", "8b", ["someone/mine:8b"]),
        ("hf.co/user/repo-GGUF", "Q4_K_M", ["hf.co/user/repo-GGUF:Q4_K_M", "https://hf.co/user/repo-GGUF:Q4_K_M"]),
    ],
)
def test_models_that_ollama_keeps(tmp_path, monkeypatch, place, tag, names):
    blob = ollama_model(tmp_path, place, tag)
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    for name in names:
        shape = models.find(name)
        assert (len(shape.layers), shape.source) == (3, "Ollama")
    assert len(models.find(str(blob)).layers) == 3


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llama3.1:latest", "meta-llama/Llama-3.1-8B"),
        ("llama3.1:70b", "meta-llama/Llama-3.1-70B"),
        ("hf.co/bartowski/Meta-Llama-3.1-8B-Instruct-GGUF:Q4_K_M", "meta-llama/Llama-3.1-8B"),
        ("hf.co/unsloth/Qwen3-4B-Instruct-2507-GGUF:UD-Q4_K_XL", "Qwen/Qwen3-4B-Instruct-2507"),
        ("huggingface.co/unsloth/gemma-3-27b-it-GGUF:IQ4_XS", "google/gemma-3-27b"),
    ],
)
def test_names_of_ollama_and_of_the_hub_without_any_download(tmp_path, monkeypatch, name, found):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    assert models.find(name).name == found


def test_a_quantization_in_the_local_hub_cache(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--user--repo-GGUF" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    gguf_file(snapshot / "repo-Q4_K_M.gguf", **PLAIN)
    gguf_file(snapshot / "repo-Q8_0.gguf", **{**PLAIN, "block_count": 5})
    assert len(models.find("hf.co/user/repo-GGUF:Q8_0").layers) == 5
    assert len(models.find("hf.co/user/repo-GGUF:q4_k_m").layers) == 3
    with pytest.raises(ModelError, match=r"2 models: repo-Q4_K_M\.gguf, repo-Q8_0\.gguf"):
        models.find("user/repo-GGUF")
    (snapshot / "repo-Q8_0.gguf").unlink()
    assert len(models.find("user/repo-GGUF").layers) == 3
