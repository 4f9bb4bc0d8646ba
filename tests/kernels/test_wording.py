"""Configurations in words: nothing that their labels say is left out."""

from __future__ import annotations

import re

import pytest
from kv_specs import kv_of

from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, specs
from swarm.kernels.wording import in_words, side_in_words


@pytest.mark.parametrize(
    ("label", "words"),
    [
        ("KV affine4/g64", "Keys and values: 4-bit affine, groups of 64."),
        (
            "K kivi4/g32/channel+hadamard V q4_0+learned sink4 recent32",
            "Keys: 4-bit kivi, per channel, rotated by a Hadamard matrix, groups of 32. "
            "Values: 4-bit q4_0, learned scaling. First 4 and latest 32 tokens: 16 bit.",
        ),
        (
            "K none V mxfp8 recent32 [layers 0,2: V nvfp4] layers 0-3",
            "Keys: 16 bit. Values: 8-bit mxfp8. Latest 32 tokens: 16 bit. Layers 0,2: values 4-bit nvfp4."
            " All but layers 0-3: 16 bit.",
        ),
        ("KV q4_0 -bias layer 3", "Keys and values: 4-bit q4_0. The key bias is subtracted. All but layer 3: 16 bit."),
    ],
)
def test_labels_in_words(label, words) -> None:
    assert in_words(KVSpec.parse(label)) == words


def test_what_differs_in_its_label_differs_in_words() -> None:
    every = {spec.label: side_in_words(spec) for name in base.methods() for spec in specs(name, 128)}
    assert len(every) == len(set(every.values())) > 100


@pytest.mark.parametrize("name", sorted(base.methods()))
def test_words_are_sentences_that_can_be_read_at_once(name) -> None:
    kv = kv_of(name, sink_tokens=4, residual_window=32)
    for sentence in re.split(r"(?<=\.)\s", in_words(kv)):
        assert sentence[0].isupper()
        assert sentence.endswith(".")
        assert len(sentence.split()) <= 16
