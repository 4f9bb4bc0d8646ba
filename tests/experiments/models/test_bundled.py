"""The bundled models themselves: facts, tokenizers and perplexity, against llama.cpp on the same files."""

import hashlib
import itertools
import json
import subprocess
import sys
from functools import cache

import numpy as np
import pytest

from swarm.experiments.models import introspect, loading, registry
from swarm.experiments.models.conversion_cache import verified_parts
from swarm.experiments.models.gguf import GGUFFile

HERE = {info.name: info for info in registry.catalogue() if info.available}
FAST = "smollm2-135m"
LARGE = "qwen2.5-coder-1.5b"  # its conversion takes half a minute and 3.5 GB
models = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == LARGE else name for name in registry.bundled()]
)

# llama.cpp (llama-cpp-python 0.3.36) over the first 4 x 512 tokens of CPython 3.11's topic help joined by blank lines,
# cut as llama-perplexity cuts it (Gemma's windows begin with <bos>), second half of each window scored: perplexity from
# the weights dequantized to float32, and from the file as it is, where llama.cpp also rounds activations to 8 bits.
# The digest is that of the 2,048 token ids, which are llama.cpp's too. (The 1.5B model: llama-cpp-py-sync 0.11739.)
REFERENCE = {
    "smollm2-135m": (12.9968, 13.0148, "bc1ebd89817386ed"),
    "gemma3-270m": (15.1009, 15.1896, "3e453bc0070d61fd"),
    "qwen2.5-coder-0.5b": (9.4036, 9.4388, "c6821797df6bf3f9"),
    LARGE: (5.3694, 5.3670, "c6821797df6bf3f9"),
}


def need(name: str) -> None:
    if name not in HERE:
        pytest.skip(f"{name} is not installed (dependency group {registry.bundled()[name].group})")


@cache
def tokenizer(name: str):
    folder = registry.ensure(name)
    return loading.read_tokenizer(folder, json.loads((folder / "config.json").read_text()))


def topic_help() -> str:
    from pydoc_data.topics import topics

    return "\n\n".join(topics.values())


def test_the_catalogue_is_light() -> None:
    script = (
        "import sys\nfrom swarm.experiments.models import registry\n"
        "assert [info.name for info in registry.catalogue()] == "
        "['smollm2-135m', 'gemma3-270m', 'qwen2.5-coder-0.5b', 'qwen2.5-coder-1.5b']\n"
        "assert not {'mlx.core', 'numpy', 'transformers', 'gguf'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_default_models_are_those_of_the_default_group_that_are_here() -> None:
    expected = [name for name in ("smollm2-135m", "gemma3-270m") if name in HERE]
    assert registry.default_models() == expected


@models
def test_the_facts_are_those_of_the_loaded_model(name) -> None:
    need(name)
    folder = registry.ensure(name)
    model, config = loading.read_model(folder)
    found = introspect.inspect(model, config, name, bos=HERE[name].bos, digest=HERE[name].digest)
    facts = HERE[name].model_dump(exclude={"bundled", "scales"})
    assert found.model_dump(exclude={"bundled", "scales"}) == facts
    assert found.scales == pytest.approx(HERE[name].scales)


@models
def test_text_survives_the_tokenizer(name) -> None:
    need(name)
    made = tokenizer(name)
    text = topic_help()[:20_000] + "\tdef f(x):\r\n        return 'naïve'\n\n\n\n漢字 🎉 \u200b 1234567890"
    assert made.decode(made.encode(text, add_special_tokens=False)) == text


@models
def test_beginnings_and_ends(name) -> None:
    need(name)
    made, info = tokenizer(name), HERE[name]
    assert (made.encode("word")[0] == made.bos_token_id) == info.bos
    assert made.eos_token_id in made.eos_token_ids
    if name != "gemma3-270m":  # the base model has no chat form
        chat = made.apply_chat_template([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
        assert made.decode(chat).endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


# Token ids from llama.cpp's own tokenizer.
@pytest.mark.parametrize(
    ("name", "text", "ids"),
    [
        (
            "smollm2-135m",
            "1234.5678 DON'T we'LL\r\n\r\n  x",
            [33, 34, 35, 36, 30, 37, 38, 39, 40, 422, 2154, 23, 68, 392, 23, 16421, 18682, 216, 1792],
        ),
        (
            "gemma3-270m",
            "Hello world 12345  3 spaces   x\n\n\tfoo ünïcödé 漢字 🎉 don't",
            [
                9259,
                1902,
                236743,
                236770,
                236778,
                236800,
                236812,
                236810,
                138,
                236800,
                9952,
                139,
                236781,
                108,
                255968,
                26537,
                174898,
                238527,
                236755,
                55515,
                236859,
                236743,
                201637,
                204906,
                1537,
                236789,
                236745,
            ],
        ),
        (
            "qwen2.5-coder-0.5b",
            "1234.5678 DON'T we'LL\r\n\r\n  x",
            [16, 17, 18, 19, 13, 20, 21, 22, 23, 44273, 17323, 582, 6, 4086, 871, 220, 856],
        ),
    ],
)
def test_token_ids_are_those_of_llama_cpp(name, text, ids) -> None:
    need(name)
    assert tokenizer(name).encode(text, add_special_tokens=False) == ids


def merged_by_score(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's BPE, by its definition: join the neighbours whose union scores best, leftmost first."""
    pieces = list(text.replace(" ", "▁"))
    while True:
        joins = [(-scores[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in scores]
        if not joins:
            return pieces
        at = min(joins)[1]
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def test_gemma_merges_by_score(tmp_path) -> None:
    need("gemma3-270m")
    made = tokenizer("gemma3-270m")
    source = tmp_path / "gemma.gguf"
    source.write_bytes(
        b"".join(p.read_bytes() for p in verified_parts(registry.bundled()["gemma3-270m"], lambda *_: None))
    )
    with GGUFFile(source) as file:
        facts = file.metadata
        table = zip(
            facts["tokenizer.ggml.tokens"],
            facts["tokenizer.ggml.scores"],
            facts["tokenizer.ggml.token_type"],
            strict=True,
        )
        scores = {token: score for token, score, kind in table if kind == 1}
    words = [word for word in topic_help().split() if word.isalnum()]
    rng = np.random.default_rng(5)
    for start in rng.integers(0, len(words) - 4, 60):
        text = " ".join(words[start : start + 4])
        assert made.convert_ids_to_tokens(made.encode(text, add_special_tokens=False)) == merged_by_score(text, scores)


@pytest.mark.parametrize(
    "name", [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in REFERENCE]
)
def test_perplexity_is_that_of_llama_cpp(name) -> None:
    import mlx.core as mx

    need(name)
    loaded = registry.load(name)
    windows = np.array(loaded.tokenizer.encode(topic_help(), add_special_tokens=False)[:2048]).reshape(4, 512)
    digest = hashlib.sha256(windows.astype("<i4").tobytes()).hexdigest()[:16]
    if loaded.info.bos:
        windows[:, 0] = loaded.tokenizer.bos_token_id
    losses = []
    for window in windows:
        logits = loaded.model(mx.array(window[None]))[0, 256:511]
        chosen = mx.take_along_axis(logits, mx.array(window[257:, None]), axis=-1)[:, 0]
        losses.append(np.array(mx.logsumexp(logits, axis=-1) - chosen))
    found = float(np.exp(np.mean(losses)))
    exact, rounded, text = REFERENCE[name]
    if digest != text:  # another CPython's topic help: nearly the same text, so nearly the same perplexity
        assert found == pytest.approx(exact, rel=0.3)
        return
    assert found == pytest.approx(exact, rel=0.002)
    assert found == pytest.approx(rounded, rel=0.01)
