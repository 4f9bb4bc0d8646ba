"""Builds Hugging Face tokenizer files from the tables in GGUF metadata, with the `tokenizers` package alone.

Token types are those of llama.cpp (`llama_token_type`): 1 normal, 3 control, 4 user defined, 5 unused, 6 byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments.models.base import WeightsError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer

CONTROL, USER_DEFINED = 3, 4
# Pre-tokenizers by `tokenizer.ggml.pre`: None splits digits one by one before GPT-2's own pattern.
QWEN2_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def write(metadata: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (and the chat template) into `folder`.

    Raises:
        WeightsError: a tokenizer of a kind that is not supported.
    """
    kind = metadata.get("tokenizer.ggml.model")
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if kind not in builders:
        raise WeightsError(f"GGUF tokenizer {kind!r} is not supported.", f"Supported: {', '.join(builders)}.")
    tokenizer = builders[kind](metadata)
    _add_marked_tokens(tokenizer, metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    bos = metadata.get("tokenizer.ggml.bos_token_id")
    if metadata.get("tokenizer.ggml.add_bos_token", kind == "llama") and bos is not None:
        from tokenizers.processors import TemplateProcessing

        single = f"{tokens[bos]}:0 $A:0"
        tokenizer.post_processor = TemplateProcessing(
            single=single, pair=f"{single} $B:1", special_tokens=[(tokens[bos], bos)]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            config[f"{name}_token"] = tokens[index]
    if "tokenizer.chat_template" in metadata:
        config["chat_template"] = metadata["tokenizer.chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def _byte_level(metadata: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE as in GPT-2."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    pre = str(metadata.get("tokenizer.ggml.pre", "default"))
    tokenizer.pre_tokenizer = _splitter(pre)
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _splitter(pre: str) -> PreTokenizer:
    from tokenizers import Regex
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split

    if pre == "smollm":
        return Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)])
    if pre == "qwen2":
        split = Split(Regex(QWEN2_PATTERN), behavior="isolated")
        return Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
    if pre in ("default", "gpt-2"):
        return ByteLevel(add_prefix_space=False, use_regex=True)
    raise WeightsError(f"GGUF pre-tokenizer {pre!r} is not supported.", "Supported: default, gpt-2, qwen2, smollm.")


def _sentencepiece(metadata: dict[str, Any]) -> Tokenizer:
    """SentencePiece BPE with byte fallback: the pair whose union scores highest is merged first."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    merges = _merges(tokens, metadata["tokenizer.ggml.scores"], metadata["tokenizer.ggml.token_type"])
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    undo: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
        undo.append(decoders.Strip(" ", 1, 0))
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.decoder = decoders.Sequence(undo)
    return tokenizer


def _merges(tokens: list[str], scores: list[float], types: Iterable[int]) -> list[tuple[str, str]]:
    """Every way to put a normal token together from two others, best score first (ties: in order of tokens)."""
    normal = {token: index for index, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == 1}
    ranked = sorted(normal.items(), key=lambda item: (-scores[item[1]], item[1]))
    return [
        (token[:cut], token[cut:])
        for token, _ in ranked
        for cut in range(1, len(token))
        if token[:cut] in normal and token[cut:] in normal
    ]


def _add_marked_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    """Control and user-defined tokens are matched in the raw text, before anything else."""
    from tokenizers import AddedToken

    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    by_kind: dict[int, list[AddedToken]] = {CONTROL: [], USER_DEFINED: []}
    for token, kind in zip(tokens, types, strict=True):
        if kind in by_kind:
            by_kind[kind].append(AddedToken(token, normalized=False, special=kind == CONTROL))
    tokenizer.add_special_tokens(by_kind[CONTROL])
    tokenizer.add_tokens(by_kind[USER_DEFINED])
