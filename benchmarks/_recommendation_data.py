"""The recorded trials that recommendations are tried on: what is kept of them, and how they are read."""

from __future__ import annotations

import gzip
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.agents.analysis.comparable import AskedModel, ComparableResults
from swarm.experiments import edits
from swarm.experiments.edits import WeightEdit
from swarm.experiments.models import registry
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.errors import UsageError
from swarm.kernels.spec import KVSpec
from swarm.memory.records import TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo

FILE = Path(__file__).parent / "data" / "recommendation.json.gz"
EDITS = ("", "keys outliers x8")
"""Of the twins of each model: weights with large channels, and the same 16-bit function."""
UNSEEN = ("qwen2.5-coder-0.5b",)
"""Models that no campaign runs on."""
CAMPAIGN, DECISIVE, FRESH = "campaign", "decisive", "fresh"


@dataclass(frozen=True)
class Twin:
    """A model, or a copy of it with edited weights."""

    model: str
    edits: tuple[WeightEdit, ...] = ()

    @property
    def name(self) -> str:
        """What it is called."""
        return f"{self.model} with {edits.label(self.edits)}" if self.edits else self.model


@dataclass(frozen=True)
class Measured:
    """A trial that was run: what for, by which campaign (-1: none), and what its windows showed.

    `replicate` counts the sets of windows that a campaign has for itself; fresh sets are counted over all.
    """

    role: str
    seed: int
    number: int
    twin: Twin
    kv: KVSpec
    replicate: int
    bits: float
    windows: tuple[float, ...]

    def record(self) -> TrialRecord:
        """The trial as agents see it; a twin passes for a model of its own."""
        spec = TrialSpec(model=self.twin.model, kv=self.kv, replicate=self.replicate, seed=self.replicate)
        kld = Metric.of("kld", sum(self.windows) / len(self.windows), "nat", len(self.windows))
        return TrialRecord(
            id=self.number + 1,
            number=self.number,
            campaign_id=1,
            fingerprint="",
            spec=spec,
            arm="agents",
            proposer="recorded",
            state="complete",
            outcome="ok",
            metrics={"kld": kld, "bits_per_value": Metric.of("bits_per_value", self.bits, "bit")},
            arrays={"window_kld": self.windows},
        )


@dataclass(frozen=True)
class Data:
    """Recorded trials; `about` says when, where and how many."""

    trials: Sequence[Measured]
    about: Mapping[str, Any]

    @cached_property
    def infos(self) -> dict[str, ModelInfo]:
        """Facts about all models."""
        return {name: registry.describe(name) for name in (*self.models, *UNSEEN)}

    @cached_property
    def models(self) -> tuple[str, ...]:
        """The models of the campaigns."""
        return tuple(dict.fromkeys(one.twin.model for one in self.trials if one.role == CAMPAIGN))

    @property
    def twins(self) -> list[Twin]:
        """The models that are asked about as if nothing had been measured on them: edited copies among them."""
        edited = [Twin(model, edits.read(text) if text else ()) for model in self.models for text in EDITS]
        return [*edited, *map(Twin, UNSEEN)]

    @cached_property
    def campaigns(self) -> dict[int, list[TrialRecord]]:
        """First-rung trials of each campaign by its seed."""
        found: dict[int, list[TrialRecord]] = defaultdict(list)
        for one in self.trials:
            if one.role == CAMPAIGN:
                found[one.seed].append(one.record())
        return dict(found)

    @cached_property
    def decisive(self) -> dict[tuple[int, Twin, KVSpec, int], TrialRecord]:
        """Trials that were run because they decide most, by the campaign that they were for, and what they measured."""
        return {(t.seed, t.twin, t.kv, t.replicate): t.record() for t in self.trials if t.role == DECISIVE}

    @cached_property
    def fresh(self) -> dict[tuple[Twin, KVSpec], tuple[float, ...]]:
        """KLD of fresh windows."""
        found: dict[tuple[Twin, KVSpec], tuple[float, ...]] = {}
        for one in self.trials:
            if one.role == FRESH:
                found[one.twin, one.kv] = (*found.get((one.twin, one.kv), ()), *one.windows)
        return found

    @cached_property
    def _bits(self) -> dict[tuple[str, KVSpec], float]:
        return {(one.twin.model, one.kv): one.bits for one in self.trials}

    def bits(self, model: str, kv: KVSpec) -> float:
        """Bits per value of a configuration on a model."""
        return self._bits[model, kv]

    def known(self, model: str, records: Sequence[TrialRecord]) -> ComparableResults:
        """What those trials say, for questions about a model."""
        info = self.infos[model]
        asked = AskedModel(info.name, info.layers, info.key_bias)
        return ComparableResults(asked, records, {name: info.layers for name, info in self.infos.items()})

    @classmethod
    def read(cls, file: Path = FILE) -> Data:
        """The recorded trials.

        Raises:
            UsageError: they are missing.
        """
        if not file.is_file():
            raise UsageError(f"{file} is missing.", "Make it with `python -m benchmarks._recommendation_runs`.")
        kept = json.loads(gzip.decompress(file.read_bytes()))
        return cls([_measured(row) for row in kept["trials"]], kept["about"])

    def write(self, file: Path = FILE) -> None:
        """Keep them in one file."""
        kept = {"about": dict(self.about), "trials": [_row(one) for one in self.trials]}
        file.write_bytes(gzip.compress(json.dumps(kept).encode(), mtime=0))


def _row(one: Measured) -> dict[str, Any]:
    twin = {"model": one.twin.model, "edits": edits.label(one.twin.edits), "kv": one.kv.label}
    told = {name: getattr(one, name) for name in ("role", "seed", "number", "replicate", "bits")}
    return {**twin, **told, "windows": [float(f"{value:.6g}") for value in one.windows]}


def _measured(row: Mapping[str, Any]) -> Measured:
    twin = Twin(row["model"], edits.read(row["edits"]) if row["edits"] else ())
    told = {name: row[name] for name in ("role", "seed", "number", "replicate", "bits")}
    return Measured(twin=twin, kv=KVSpec.parse(row["kv"]), windows=tuple(row["windows"]), **told)
