"""An mlx-lm model served by mlx_lm.server, with answers held to JSON schemas by llguidance where it is installed."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.agents.llm.dialect import grammar

if TYPE_CHECKING:
    import mlx.core as mx

GRAMMAR = "swarm_grammar"
"""Under this name a request's grammar travels through mlx_lm.server, among the arguments of its chat template."""


def serve(name: str, folder: Path, host: str, port: int) -> None:
    """Serve a model in an mlx-lm directory; returns never."""
    import mlx.core as mx
    from mlx_lm import server

    if mx.default_device() == mx.cpu:
        server.load = _loader(name)
    if find_spec("llguidance") is not None:
        _constrain(server)
    sys.argv = ["mlx_lm.server", "--model", str(folder), "--host", host, "--port", str(port), "--log-level", "WARNING"]
    server.main()


def _loader(name: str) -> Any:
    """Our loader in the place of mlx-lm's: 16-bit floats are slow on a CPU."""
    from swarm.experiments.models import registry

    def load(path: str, **_: Any) -> tuple[Any, Any, dict[str, Any]]:
        loaded = registry.load(name)
        return loaded.model, loaded.tokenizer, json.loads((Path(path) / "config.json").read_text("utf-8"))

    return load


def _constrain(server: Any) -> None:
    """Teach mlx_lm.server `grammar` and `response_format`, which it passes over."""
    plain_processors, plain_load = server._make_logits_processors, server.load
    plain_asked = server.APIHandler.handle_chat_completions
    chosen: dict[str, Any] = {}

    def load(*args: Any, **kwargs: Any) -> Any:
        loaded = plain_load(*args, **kwargs)
        chosen["tokens"] = vocabulary(loaded[1])
        return loaded

    def processors(args: Any) -> list[Any]:
        wanted = (args.chat_template_kwargs or {}).get(GRAMMAR)
        found: list[Any] = list(plain_processors(args))
        return found if wanted is None else [*found, held_to(wanted, chosen["tokens"])]

    def asked(handler: Any) -> Any:
        shape = handler.body.get("response_format") or {}
        schema = (shape.get("json_schema") or shape).get("schema")
        wanted = handler.body.get("grammar") or (None if schema is None else grammar(schema))
        if wanted is not None:
            handler.chat_template_kwargs = {**(handler.chat_template_kwargs or {}), GRAMMAR: wanted}
        return plain_asked(handler)

    server.load, server._make_logits_processors, server.APIHandler.handle_chat_completions = load, processors, asked


def vocabulary(tokenizer: Any) -> Any:
    """The tokens of an mlx-lm tokenizer as llguidance wants them."""
    import llguidance.hf

    plain = getattr(tokenizer, "_tokenizer", tokenizer)
    return llguidance.hf.from_tokenizer(plain, eos_token=plain.eos_token_id)


def held_to(grammar: str, tokens: Any) -> Callable[[mx.array, mx.array], mx.array]:
    """A logits processor that leaves only tokens with which a grammar (of llguidance) can still be met.

    It takes the tokens so far, prompt included, and logits of shape (1, vocabulary).

    Raises:
        ValueError: a grammar that cannot be held to.
    """
    import llguidance
    import llguidance.numpy
    import mlx.core as mx
    import numpy as np

    matcher = llguidance.LLMatcher(tokens, llguidance.LLMatcher.grammar_from_lark(grammar))
    if matcher.is_error():
        raise ValueError(matcher.get_error())
    mask = llguidance.numpy.allocate_token_bitmask(1, tokens.vocab_size)
    seen: int | None = None

    def process(so_far: mx.array, logits: mx.array) -> mx.array:
        nonlocal seen
        # The first call sees the prompt, which may stay where it is.
        new: Any = so_far[seen:].tolist() if seen is not None else []
        for token in new:
            matcher.consume_token(token)
        seen = so_far.shape[0]
        llguidance.numpy.fill_next_token_bitmask(matcher, mask, 0)
        allowed = np.unpackbits(mask.view(np.uint8), bitorder="little")[: logits.shape[-1]]
        room = np.zeros(logits.shape[-1], bool)
        room[: len(allowed)] = allowed.astype(bool)
        return mx.where(mx.array(room), logits, mx.array(-np.inf, logits.dtype))

    return process
