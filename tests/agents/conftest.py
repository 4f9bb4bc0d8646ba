"""A simulated laboratory with a known truth: real search space, real strategy, lawful measurements."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from math import exp, log

import numpy as np
import pytest
from in_memory import Run, proposed
from in_memory import campaign as in_memory

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.strategy import GenerationStrategy
from swarm.agents.settings import AgentSettings
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.space.search_space import Space
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import QuantSpec
from swarm.memory.records import Proposal, TrialRecord

WINDOWS = 4
Law = Callable[[TrialSpec], float]
"""Extra logarithm of the KLD of a specification, on top of the common law."""


def info(
    name: str,
    *,
    head_dim: int = 64,
    n_layers: int = 12,
    key_bias: bool = False,
    windows: tuple[int | None, ...] | None = None,
) -> ModelInfo:
    return ModelInfo(
        name=name,
        family=name,
        digest=name,
        n_layers=n_layers,
        n_heads=4,
        n_kv_heads=2,
        head_dim=head_dim,
        scales=(head_dim**-0.5,) * n_layers,
        scale_kind="fixed",
        windows=windows or (None,) * n_layers,
        key_bias=key_bias,
        vocab_size=1_000,
        max_context=8_192,
        available=True,
    )


def bits(spec: QuantSpec) -> float:
    if spec.method == "none":
        return 16.0
    return float(spec.bits or 4) + (32 / spec.group_size if spec.group_size else 0.5)


def error(spec: QuantSpec) -> float:
    return 0.0 if spec.method == "none" else exp(2.5 - 1.3 * bits(spec))


@dataclass
class Laboratory:
    """Measures specifications by a law; deterministic given the seed."""

    seed: int = 0
    law: Law = lambda spec: 0.0
    noise: float = 0.12
    fails: Callable[[TrialSpec], str] = lambda spec: ""
    n_layers: dict[str, int] = field(default_factory=dict)

    def log_kld(self, spec: TrialSpec) -> float:
        layers = self.n_layers.get(spec.model, 12)
        share = 1.0 if spec.layers is None else len(spec.layers) / layers
        kv = spec.kv
        base = (error(kv.key) + 0.5 * error(kv.value)) * share * (0.97 if kv.sink_tokens else 1.0)
        return log(base + 1e-6) + self.law(spec)

    def cost(self, spec: TrialSpec) -> float:
        layers = self.n_layers.get(spec.model, 12)
        share = 1.0 if spec.layers is None else len(spec.layers) / layers
        quantized = (bits(spec.kv.key) + bits(spec.kv.value)) / 2
        return share * quantized + (1 - share) * 16 + spec.kv.residual_window / 512

    def stream(self, *parts: object) -> np.random.Generator:
        return np.random.default_rng([self.seed, zlib.crc32(repr(parts).encode())])

    def measure(self, spec: TrialSpec) -> tuple[dict[str, Metric], dict[str, tuple[float, ...]]]:
        windows = self.stream(spec.model, spec.replicate).normal(0, 0.3, WINDOWS)
        own = self.stream(spec.model_dump_json()).normal(0, self.noise, WINDOWS)
        kld = np.exp(self.log_kld(spec) + windows + own)
        stderr = float(kld.std(ddof=1) / WINDOWS**0.5)
        metrics = {
            "kld": Metric(name="kld", value=float(kld.mean()), unit="nat", n=WINDOWS, stderr=stderr),
            "bits_per_value": Metric(name="bits_per_value", value=self.cost(spec), unit="bit"),
        }
        return metrics, {"window_kld": tuple(float(x) for x in kld)}

    def run(self, number: int, proposal: Proposal) -> TrialRecord:
        spec, record = proposal.spec, proposed(number, proposal)
        outcome = self.fails(spec)
        if outcome:
            return record.model_copy(update={"state": "failed", "outcome": outcome})
        metrics, arrays = self.measure(spec)
        return record.model_copy(update={"state": "complete", "outcome": "ok", "metrics": metrics, "arrays": arrays})


def campaign(
    lab: Laboratory,
    infos: list[ModelInfo],
    budget: int,
    *,
    seed: int = 0,
    lag: int = 8,
    settings: AgentSettings | None = None,
) -> Run:
    """Run a whole campaign against the laboratory, as a driver does."""
    lab.n_layers = {i.name: i.n_layers for i in infos}
    strategy = GenerationStrategy(Space(infos), AnalysisEngine(infos, settings or AgentSettings()), seed)
    return in_memory(strategy, budget, lag, lab.run)


@pytest.fixture
def infos() -> list[ModelInfo]:
    return [info("alpha", head_dim=64, n_layers=12), info("beta", head_dim=128, n_layers=9)]


@pytest.fixture
def lab() -> Laboratory:
    return Laboratory()


@pytest.fixture
def simulate() -> Callable[..., Run]:
    return campaign


@pytest.fixture
def make_lab() -> type[Laboratory]:
    return Laboratory


@pytest.fixture
def make_info() -> Callable[..., ModelInfo]:
    return info
