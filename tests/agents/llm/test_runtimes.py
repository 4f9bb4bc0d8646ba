"""Local models that answer, held to a schema, from a server of our own."""

from __future__ import annotations

import os
import re
from importlib.util import find_spec

import pytest
from pydantic import BaseModel, Field

from swarm.agents.llm import factory
from swarm.agents.llm.client import Client
from swarm.agents.llm.dialect import grammar, strict_schema
from swarm.agents.llm.endpoint import LlmSettings
from swarm.agents.llm.runtimes import llama_cpp, mlx
from swarm.agents.llm.server import LocalServer
from swarm.experiments.models import registry
from swarm.kernels.errors import ModelError, UsageError

MODEL = "smollm2-135m"


class Pick(BaseModel):
    kind: str = Field(pattern="^(red|green)[0-9]{3}$")
    words: str = Field(max_length=20)


@pytest.mark.slow
@pytest.mark.skipif(not llama_cpp.is_installed(), reason="needs the extra llm")
@pytest.mark.parametrize("runtime", ["llama.cpp", "mlx-lm"])
def test_a_local_server_answers_in_the_schema(runtime) -> None:
    server = LocalServer(MODEL if runtime == "llama.cpp" else str(registry.ensure(MODEL)))
    client = Client(server.endpoint, 240.0, server)
    try:
        for question in ("What is it?", "What else is it?"):
            messages = [{"role": "system", "content": "Be brief. " * 100}, {"role": "user", "content": question}]
            reply = client.complete(messages, schema=strict_schema(Pick), max_output=60)
            Pick.model_validate_json(reply.text)
            assert 200 < reply.tokens_in < 1_000
        assert client.label == server.model
        assert client.dialect.structured == "grammar"
    finally:
        client.close()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llguidance") is None, reason="needs the extra llm")
def test_mlx_answers_in_the_schema() -> None:
    import mlx.core as mx
    from mlx_lm import stream_generate

    loaded = registry.load(MODEL)
    tokens = mlx.vocabulary(loaded.tokenizer)
    for seed in range(2):
        mx.random.seed(seed)
        held = mlx.held_to(grammar(strict_schema(Pick)), tokens)
        prompt = loaded.tokenizer.encode("What is it?")
        parts = stream_generate(
            loaded.model, loaded.tokenizer, prompt, max_tokens=60, logits_processors=[held],
            sampler=mx.random.categorical,
        )  # fmt: skip
        Pick.model_validate_json("".join(part.text for part in parts))


def test_a_gguf_file_is_found_whole_or_refused(tmp_path) -> None:
    file = registry.gguf(MODEL)
    assert file is not None
    with file.open("rb") as opened:
        assert opened.read(4) == b"GGUF"
    assert registry.gguf(str(tmp_path)) is None
    with pytest.raises(ModelError, match="no file"):
        registry.gguf(str(tmp_path / "x.gguf"))


def test_a_model_in_pieces_is_put_together_once_and_checked(tmp_path, monkeypatch) -> None:
    from swarm.experiments.models import conversion_cache
    from swarm.experiments.models.base import WeightsError

    model = registry.bundled()["gemma3-270m"]
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path))
    file = registry.gguf(model.name)
    assert file is not None
    assert file.stat().st_size == sum(part.size for part in model.parts)
    before = file.stat().st_mtime_ns
    assert conversion_cache.gguf(model, lambda *_: None) == file
    assert file.stat().st_mtime_ns == before
    with file.open("r+b") as opened:
        opened.seek(-5, os.SEEK_END)
        opened.write(b"wrong")
    with pytest.raises(WeightsError, match=re.escape(str(file))):
        registry.gguf(model.name)


def test_files_that_nothing_here_can_run_are_refused_before_anything_is_made(tmp_path) -> None:
    settings = LlmSettings(llm=f"local:{tmp_path}/x.gguf")
    expected = ModelError if llama_cpp.is_installed() else UsageError
    with pytest.raises(expected, match=r"no file|need llama\.cpp"):
        factory.check(settings, capped=False)
