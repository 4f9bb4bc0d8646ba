"""What it costs that an engine has another cache than a trial: from the store, or measured now."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from swarm.kernels.spec import FrozenModel, KVSpec

if TYPE_CHECKING:
    from swarm.experiments.spec import TrialSpec
    from swarm.memory.records import TrialRecord
    from swarm.memory.store import Store

PINS = ("model_digest", "corpus_digest")
FREE = {"kv", "seed", "replicate", "device", *PINS}
"""Fields in which a trial may differ that stands for the engine's cache beside another one; empty pins fit any."""


class MeasuredCost(FrozenModel):
    """Divergences (KLD, nats) of the wanted configuration and of the engine's, and their ratio with its interval.

    The ratio is paired over `windows` text windows that both were measured on; it is None for fewer than two.
    """

    trials: tuple[int, ...]
    wanted_kld: float
    engine_kld: float
    ratio: float | None
    low: float | None
    high: float | None
    windows: int


def cost(store: Store, record: TrialRecord, kv: KVSpec) -> MeasuredCost | None:
    """How much more a configuration drifts than a trial's, by the trials of the store; None where there are none.

    Args:
        store: where trials are looked for.
        record: the trial with the wanted configuration.
        kv: what the engine stores.
    """
    from swarm.agents.analysis.results import compare, pool, ratio

    trials = store.trials.list(model=record.spec.model, protocol=record.spec.protocol, state="complete")
    alike = [
        trial for trial in trials if trial.spec.kv in (kv, record.spec.kv) and _comparable(trial.spec, record.spec)
    ]
    found = pool(alike, protocol=record.spec.protocol).values()
    wanted, engine = (next((r for r in found if r.spec.kv == one), None) for one in (record.spec.kv, kv))
    if wanted is None or engine is None:
        return None
    estimate = compare(engine, wanted)
    effect = None if estimate is None else ratio("kld", estimate)
    mean_of = [sum(result.values) / len(result.values) for result in (wanted, engine)]
    return MeasuredCost(
        trials=engine.ids,
        wanted_kld=mean_of[0],
        engine_kld=mean_of[1],
        ratio=None if effect is None else effect.value,
        low=None if effect is None else effect.low,
        high=None if effect is None else effect.high,
        windows=0 if estimate is None else estimate.n,
    )


def _comparable(one: TrialSpec, other: TrialSpec) -> bool:
    pins = all(len({getattr(one, pin), getattr(other, pin)} - {""}) < 2 for pin in PINS)
    return pins and one.model_dump(exclude=FREE) == other.model_dump(exclude=FREE)


def measure(store: Store, spec: TrialSpec, why: str, corpus: Path | None = None) -> TrialRecord:
    """Run one trial in this process and keep it in the store, in a campaign of its own.

    Args:
        store: where it is kept.
        spec: the trial; digests that are left empty are filled in.
        why: the rationale that is kept with it.
        corpus: the text; CPython's topic help by default.

    Raises:
        UsageError: the specification fits no protocol, model or text.
        TrialError: it ended without a measurement; nothing is kept.
    """
    from swarm.experiments.measurement.runner import Runner
    from swarm.memory.records import Proposal
    from swarm.orchestrator import one_off

    runner = Runner(corpus=corpus)
    digests = {
        "model_digest": spec.model_digest or runner.subject(spec.model).info.digest,
        "corpus_digest": spec.corpus_digest or runner.corpus.digest,
    }
    asked = spec.model_copy(update=digests)
    result = runner.run(asked)
    facts = {"recipe": asked.kv.label, "models": [asked.model], "corpus": corpus and str(corpus)}
    with one_off.recording(store, "recipe", facts, 1) as campaign:
        proposal = Proposal(spec=asked, proposer="recipe", arm="defaults", rationale=why)
        return one_off.record(store, campaign, 0, proposal, result)
