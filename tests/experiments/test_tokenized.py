"""Token ids of texts: the tokenizer's own, made once for all processes, again when what they depend on changes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_models import write_tiny_model

from swarm.experiments.artifacts import CaptureStore
from swarm.experiments.models import registry
from swarm.experiments.text import TokenizedTexts

TEXTS = ("What is scored. Naïve café, 12 345 tokens!\n" * 5, "What calibrates.")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_tiny_model(tmp_path / "model", "llama")


@pytest.fixture
def captures(tmp_path) -> CaptureStore:
    return CaptureStore(tmp_path / "captures")


def counting(folder: Path):
    """The model, and how often its tokenizer was read."""
    loaded = registry.load(str(folder))
    read: list[None] = []

    def reading():
        read.append(None)
        return loaded.read_tokenizer()

    return replace(loaded, read_tokenizer=reading), read


def test_the_ids_are_the_tokenizers_and_it_is_read_once(folder, captures) -> None:
    loaded, read = counting(folder)
    tokenizer = registry.load(str(folder)).tokenizer
    for store in (captures, CaptureStore(captures.root)):
        found = TokenizedTexts(loaded, TEXTS, store)
        for text in TEXTS:
            np.testing.assert_array_equal(found.encode(text), tokenizer.encode(text, add_special_tokens=False))
        assert found.bos_token_id == tokenizer.bos_token_id
    assert len(read) == 1


def test_another_tokenizer_or_text_is_not_taken_for_the_same(folder, captures) -> None:
    loaded, read = counting(folder)
    TokenizedTexts(loaded, TEXTS, captures).encode(TEXTS[0])
    TokenizedTexts(loaded, (*TEXTS, "More."), captures).encode("More.")
    assert len(read) == 2
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text() + "\n")
    TokenizedTexts(loaded, TEXTS, captures).encode(TEXTS[0])
    assert len(read) == 3


def test_a_text_that_it_was_not_made_for_is_refused(folder, captures) -> None:
    with pytest.raises(KeyError):
        TokenizedTexts(counting(folder)[0], TEXTS, captures).encode("other")
