"""Qwen2 and Qwen2.5: q, k and v have a bias; nothing is permuted."""

from __future__ import annotations

from swarm.experiments.models.architectures.base import Architecture


class Qwen2Architecture(Architecture):
    """`model_type` qwen2."""

    name = "qwen2"
    model_type = "qwen2"
