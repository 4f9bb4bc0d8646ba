"""Reads a model's shape off the model itself: builds it in mlx-lm without weights and looks at its caches.

The pass through the model runs in a process of its own, as the model's code may compute.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from swarm.experiments import bounded
from swarm.experiments.sizing.fields import complete, flatten, optional, trained_window
from swarm.experiments.sizing.shape import ModelShape
from swarm.kernels.errors import ModelError
from swarm.kernels.layers import trace

EXPERT = re.compile(r"(switch_mlp|experts)\b|_exps\b")
EMBEDDING = re.compile(r"(embed_tokens|tok_embeddings|wte|word_embeddings|embeddings|token_embd)\.weight$")
PER_LAYER_EMBEDDING = re.compile(r"embed_tokens_per_layer|per_layer_token_embd")


def count(config: Mapping[str, Any]) -> tuple[int, int]:
    """Parameters of the model, and those that one token reads.

    Raises:
        ModelError: mlx-lm does not know the family or refuses the configuration.
    """
    sizes = _sizes(_build(config), flatten(config))
    return sum(sizes.values()), active(sizes, config)


def active(sizes: Mapping[str, int], config: Mapping[str, Any]) -> int:
    """Weights that one token reads, from the sizes of the named arrays: no unrouted experts, no embedding table.

    A table that is also the output matrix is read in full.
    """
    flat = flatten(config)
    routed, experts = (optional(flat, key, "the model") for key in ("num_experts_per_tok", "num_experts"))
    total = sum(size for name, size in sizes.items() if not PER_LAYER_EMBEDDING.search(name))
    if routed and experts:
        idle = 1 - min(1.0, routed / experts)
        total -= round(idle * sum(size for name, size in sizes.items() if EXPERT.search(name)))
    has_head = any("lm_head" in name or name.startswith("output.") for name in sizes)
    if has_head:
        total -= sum(size for name, size in sizes.items() if EMBEDDING.search(name))
    return total


def read(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of the model that mlx-lm builds from a config.json, read in a process with limits.

    Raises:
        ModelError: mlx-lm does not know the family, refuses the configuration, or needs more memory or time than the
            limits to run it without weights.
    """
    return ModelShape.model_validate(bounded.call(f"{__name__}:answer", dict(config), name, what=name))


def answer(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """`read_here` as data that another process can send."""
    return read_here(config, name).model_dump(mode="json")


def read_here(config: Mapping[str, Any], name: str) -> ModelShape:
    """The shape of the model that mlx-lm builds, in this process and without limits.

    Raises:
        ModelError: mlx-lm does not know the family or refuses the configuration.
    """
    model = _build(config)
    flat = complete(config)
    layers = tuple(layer.shape for layer in trace(model))
    sizes = _sizes(model, flat)
    return ModelShape(
        name=name,
        family=str(flat.get("model_type")),
        layers=layers,
        query_heads=optional(flat, "num_attention_heads", name) or 1,
        hidden_size=optional(flat, "hidden_size", name) or 1,
        intermediate_size=optional(flat, "intermediate_size", name) or 0,
        max_context=trained_window(flat, name),
        parameters=sum(sizes.values()),
        active_parameters=active(sizes, config),
        notes=("shape read from the model that mlx-lm builds",),
    )


def _build(config: Mapping[str, Any]) -> Any:
    from mlx_lm.utils import _get_classes

    family = config.get("model_type")
    try:
        kind, arguments = _get_classes(dict(config))
        return kind(arguments.from_dict(dict(config)))
    except Exception as error:  # every family has its own code
        raise ModelError(
            f"mlx-lm cannot build a model of family {family!r}: {error}.", "Check its config.json."
        ) from error


def _sizes(model: Any, config: Mapping[str, Any]) -> dict[str, int]:
    """Values in every weight; a separate output matrix that the checkpoint ties to the embedding is not counted."""
    from mlx.utils import tree_flatten

    tied = config.get("tie_word_embeddings", str(config.get("model_type")).startswith("gemma"))
    arrays = dict(tree_flatten(model.parameters()))
    return {name: int(array.size) for name, array in arrays.items() if not (tied and "lm_head" in name)}
