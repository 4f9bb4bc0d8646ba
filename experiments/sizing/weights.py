"""How many weights a transformer has, estimated from the fields of its config.json."""

from __future__ import annotations

from swarm.experiments.sizing.fields import Config, optional, positive
from swarm.experiments.sizing.layer_kinds import STATE_SPACE

# Feed-forward networks of two matrices.
UNGATED = frozenset({"falcon", "gpt2", "gpt_neox", "gpt_bigcode", "gptj", "bloom", "mpt", "opt", "phi", "starcoder2"})


def estimated_weights(fields: Config, name: str) -> tuple[int, int]:
    """Weights of a transformer of these sizes, and those that one token reads, where the model cannot be built.

    Counted are embeddings, attention and feed-forward matrices (three where the family gates them, else two) with
    their experts; norms, biases and routers are left out.

    Raises:
        ModelError: fields that are needed are missing or make no sense.
    """
    hidden, n_layers = positive(fields, "hidden_size", name), positive(fields, "num_hidden_layers", name)
    heads = optional(fields, "num_attention_heads", name) or 1
    kv_heads = optional(fields, "num_key_value_heads", name) or heads
    head_dim = optional(fields, "head_dim", name) or hidden // heads
    inner = optional(fields, "intermediate_size", name) or 4 * hidden
    matrices = 2 if fields.get("model_type") in UNGATED else 3
    experts = optional(fields, "num_experts", name) or 1
    routed = optional(fields, "num_experts_per_tok", name) or experts
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    feed_forward = matrices * hidden * (optional(fields, "moe_intermediate_size", name) or inner)
    if fields.get("model_type") in STATE_SPACE:  # two projections into the inner channels and one out of them
        attention, feed_forward = 3 * hidden * hidden * (optional(fields, "mamba_expand", name) or 2), 0
    embedding = hidden * (optional(fields, "vocab_size", name) or 0)
    tables = 1 if fields.get("tie_word_embeddings") else 2
    total = n_layers * (attention + experts * feed_forward) + tables * embedding
    return total, n_layers * (attention + min(routed, experts) * feed_forward) + embedding
