"""Trials that do nothing, over six parameters: the same search for our driver and for its peers."""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any

from swarm.agents.samplers.optuna_bridge.study import STARTUP_TRIALS, ModelStudy
from swarm.agents.settings import AgentSettings
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.protocols.simulated import FAULTS, instruct
from swarm.experiments.space.suggest import Params, Trial
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Proposal, TrialRecord
from swarm.orchestrator.rehearsal import MODELS, Rehearsal

if TYPE_CHECKING:
    import optuna

    from swarm.agents.history import History

SECONDS = 0.002
"""How long a trial sleeps."""
BITS = (2, 3, 4, 5, 6, 8)


def choose(trial: Trial) -> Params:
    """The six parameters."""
    return {
        "key_bits": trial.suggest_categorical("key_bits", BITS),
        "value_bits": trial.suggest_categorical("value_bits", BITS),
        "group_size": trial.suggest_categorical("group_size", (32, 64, 128)),
        "rotation": trial.suggest_categorical("rotation", ("none", "hadamard", "random")),
        "sink_tokens": trial.suggest_categorical("sink_tokens", (0, 4, 16)),
        "residual_window": trial.suggest_categorical("residual_window", (0, 32, 128)),
    }


def outcome(params: Any) -> tuple[float, float]:
    """What a trial returns after its sleep: KLD and bits/value, both to be small."""
    time.sleep(SECONDS)
    bits = (params["key_bits"] + params["value_bits"]) / 2
    return float(4.0**-bits), float(bits)


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of every contestant: Optuna's multi-objective TPE."""
    import optuna

    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)


class SixParameters:
    """The search over them, as a study of ours asks for it."""

    objectives = 2
    protocol_searched = "quality"

    def suggest(self, trial: Trial, info: ModelInfo, protocol: str, *, number: int = 0) -> TrialSpec:  # noqa: ARG002
        """A trial that does nothing."""
        params = choose(trial)
        key, value = (
            QuantSpec(method="affine", bits=params[name], group_size=params["group_size"], rotation=params["rotation"])
            for name in ("key_bits", "value_bits")
        )
        kv = KVSpec(key=key, value=value, sink_tokens=params["sink_tokens"], residual_window=params["residual_window"])
        return instruct(number, milliseconds=round(1000 * SECONDS), model=info.name, kv=kv)

    def params(self, spec: TrialSpec) -> Params:
        """The parameters of a trial."""
        kv = spec.kv
        return {
            "key_bits": kv.key.bits,
            "value_bits": kv.value.bits,
            "group_size": kv.key.group_size,
            "rotation": kv.key.rotation,
            "sink_tokens": kv.sink_tokens,
            "residual_window": kv.residual_window,
        }


class SixStudy(ModelStudy):
    """The study of a campaign's agents, of trials that do nothing."""

    def belongs(self, record: TrialRecord) -> bool:
        return record.spec.model == self._info.name


class Sampling(Rehearsal):
    """A rehearsal whose trials a sampler proposes from the history, as the agents of a campaign do."""

    @cached_property
    def study(self) -> SixStudy:
        """What has been tried."""
        space: Any = SixParameters()
        return SixStudy(space, _facts(), AgentSettings(max_bits=16.0, max_kld=10.0), self.seed)

    def propose(self, number: int, history: History) -> Proposal:
        """What the sampler says; the number makes a repeated configuration a trial of its own."""
        self.study.feed(history.records)
        spec = self.study.ask(number).model_copy(update={"seed": number * FAULTS})
        return Proposal(spec=spec, proposer="sampler", rationale="Does nothing, to time the machinery.")


def _facts() -> ModelInfo:
    return ModelInfo(
        name=MODELS[0],
        family="none",
        digest="",
        n_layers=1,
        n_heads=1,
        n_kv_heads=1,
        head_dim=64,
        scales=(1.0,),
        scale_kind="fixed",
        windows=(None,),
        key_bias=False,
        vocab_size=1,
        max_context=1024,
        available=True,
    )
