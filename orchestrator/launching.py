"""Puts a campaign together from its settings: store, workers, models, agents. The loop itself is in `driver`."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from swarm.experiments.environment import code_version
from swarm.kernels.errors import UsageError
from swarm.memory.records import Budget, CampaignRecord, Proposal
from swarm.memory.store import Store
from swarm.orchestrator import long_contexts
from swarm.orchestrator.asked import AskedStrategy
from swarm.orchestrator.campaign_workers import EXPECTING, expected, make_pool, started
from swarm.orchestrator.rehearsal import Rehearsal
from swarm.orchestrator.settings import Settings, load, restore
from swarm.orchestrator.workload import (
    Workload,
    check,
    check_unchanged,
    device_of,
    make_workload,
)

if TYPE_CHECKING:
    from swarm.agents.generation.strategy import GenerationStrategy
    from swarm.agents.llm.runner import RoleRunner
    from swarm.orchestrator.campaign import Campaign
    from swarm.orchestrator.driver import Analysis, Strategy
    from swarm.orchestrator.pool import Pool


def launch(
    models: str | Sequence[str] | None = None,
    budget: int | None = None,
    *,
    store: str | os.PathLike[str] | None = None,
    name: str | None = None,
    seed: int | None = None,
    workers: int | None = None,
    context: int | None = None,
    corpus: str | os.PathLike[str] | None = None,
    llm: str | None = None,
    agenda: str | None = None,
    control_share: float | None = None,
    time_limit: float | str | None = None,
    **others: Any,
) -> Campaign:
    """A new campaign, as `swarm launch` runs it. Its trials begin when it is iterated, or by `result()`.

    What is left out comes from `SWARM_*` variables, then from `swarm.toml`, then from the defaults of the command.

    Args:
        models: bundled names, Hugging Face ids or folders, in a list or separated by commas; the bundled ones.
        budget: trials to run; 330.
        store: a SQLite file or `postgresql+psycopg://...`; `swarm.db`.
        name: of the campaign; `campaign-N`.
        seed: the same seed gives the same campaign; 0.
        workers: processes; one per core, up to eight per GPU, as memory allows.
        context: tokens per text window; 512.
        corpus: a UTF-8 text to measure on; CPython's topic help.
        llm: who thinks: `none`, `openai`, a URL, or `local[:MODEL]`; `none`.
        agenda: hypotheses to test first; none.
        control_share: share of random and plain TPE trials; 0.2.
        time_limit: seconds, or a text such as `1h30m`; no limit.
        others: every further option of `swarm launch`, with `_` for `-`.

    Raises:
        UsageError: an option that does not exist or a value out of range.
        SwarmError: the store, a model or the text is not what it should be; nothing is left running.
    """
    given = {
        "models": models, "budget": budget, "store": store and os.fspath(store), "name": name, "seed": seed,
        "workers": workers, "context": context, "corpus": corpus and os.fspath(corpus), "llm": llm, "agenda": agenda,
        "control_share": control_share, "time_limit": time_limit,
    }  # fmt: skip
    return start(load(**given, **others))


def start(
    settings: Settings,
    on_ready: Callable[[], None] = lambda: None,
    meanwhile: Callable[[Settings], None] = lambda _: None,
) -> Campaign:
    """A new campaign. Its workers come up in the background; its trials begin when it is iterated.

    Args:
        settings: what it is told.
        on_ready: called when Ray is up, in the thread that iterates the campaign.
        meanwhile: called with the settings while Ray comes up, before the models are looked at.

    Raises:
        SwarmError: a setting, the store, a model or the text is not what it should be; nothing is left running.
    """
    check(settings)
    if len(settings.devices) > 1:
        raise UsageError(
            f"--device {settings.device}: a campaign is for one device.",
            "Launch one for each into the same store, or run `swarm launch`, which does.",
        )
    with ExitStack() as undo:
        store = undo.enter_context(Store.open(settings.store, create=True))
        if any(campaign.name == settings.name for campaign in store.campaigns.list()):
            raise UsageError(
                f"the store has a campaign called {settings.name!r}.",
                f"Go on with it by `swarm resume {settings.name}`, or give another --name.",
            )
        workers = undo.enter_context(ExitStack())
        pool = workers.enter_context(started(make_pool(settings, on_ready)))
        meanwhile(settings)
        workload = make_workload(settings)
        settings, left_out = long_contexts.settle(settings, workload, pool.workers)
        record = create(store, settings, workload, pool.workers, left_out)
        campaign = assemble(store, record, settings, workload, pool, workers)
        undo.pop_all()  # from here on the campaign closes them
        return campaign


def resume(
    url: str,
    campaign: str | None,
    on_ready: Callable[[], None] = lambda: None,
    meanwhile: Callable[[Settings], None] = lambda _: None,
    **flags: object,
) -> Campaign:
    """Go on with a campaign that was stopped, or join one that runs.

    Args:
        url: the store.
        campaign: its name or number; None for the latest one.
        on_ready: called when Ray is up, in the thread that iterates the campaign.
        meanwhile: called with the settings while Ray comes up, before the models are looked at.
        flags: settings that may change between two runs of a campaign; None leaves one as it was.

    Raises:
        ChangedError: weights, text or device are not those that the campaign began with.
        SwarmError: as for `start`.
    """
    with ExitStack() as undo:
        store = undo.enter_context(Store.open(url))
        record = store.campaigns.get(campaign)
        settings = restore(record.settings, url, **flags)
        check(settings)
        workers = undo.enter_context(ExitStack())
        pool = workers.enter_context(started(make_pool(settings, on_ready)))
        meanwhile(settings)
        workload = make_workload(settings)
        check_unchanged(record, workload)
        record = store.campaigns.finish(record.id, "running")
        resumed = assemble(store, record, settings, workload, pool, workers)
        undo.pop_all()
        return resumed


def assemble(
    store: Store,
    record: CampaignRecord,
    settings: Settings,
    workload: Workload,
    pool: Pool,
    workers: ExitStack,
    agents: tuple[Strategy, Analysis] | None = None,
) -> Campaign:
    """The campaign of a record, with its agents and leases.

    Args:
        store: where it is.
        record: which campaign.
        settings: what it is told.
        workload: what it measures.
        pool: who runs its trials; started.
        workers: is closed when the campaign ends, and gets what else is to be ended then.
        agents: who proposes and who analyses, in place of those that the settings ask for.
    """
    from swarm.agents.llm import factory
    from swarm.orchestrator.campaign import Campaign
    from swarm.orchestrator.driver import Driver
    from swarm.orchestrator.gpu_use import GpuUse
    from swarm.orchestrator.leases import HeldLeases

    if device_of(settings) == "cuda" and settings.rehearsal is None:
        workers.enter_context(GpuUse(store, record.id))
    llm = factory.create(settings.for_llm(), store, record.id, every=settings.analyse_every)
    if llm is not None:
        workers.callback(llm.close)
    if agents is None and settings.rehearsal is not None:
        rehearsal = Rehearsal.parse(settings.rehearsal, settings.seed, device_of(settings))
        agents = rehearsal, rehearsal
    elif agents is None:
        strategy = make_strategy(settings, workload, llm, lambda: store.external_proposals.waiting(record.id))
        if settings.budget >= EXPECTING and settings.engine is None:
            pool.prepare_ahead(expected(list(strategy.defaults.values()), settings.long, settings.protocols))
        agents = AskedStrategy(settings.asked, strategy) if settings.asked else strategy, strategy.engine
    driver = Driver(
        store,
        record,
        *agents,
        pool,
        workers.enter_context(HeldLeases(store)),
        lag=int(record.settings["lag"]),
        workers=workers,
        hurry=llm.hurry if llm is not None else lambda: None,
    )
    return Campaign(driver)


def make_strategy(
    settings: Settings,
    workload: Workload,
    llm: RoleRunner | None = None,
    external: Callable[[], Sequence[Proposal]] = tuple,
) -> GenerationStrategy:
    """Who proposes, with the engine that analyses.

    Args:
        settings: what the campaign is told.
        workload: what it measures.
        llm: the roles of an LLM, beside the built-in agents.
        external: what people and agents outside have proposed, oldest first.

    Raises:
        UsageError: the agenda cannot be read.
    """
    from swarm.agents.analysis.engine import AnalysisEngine
    from swarm.agents.generation.strategy import GenerationStrategy
    from swarm.agents.published_claims import schema
    from swarm.agents.published_claims.plan import AgendaPlan
    from swarm.experiments.engines.run.startable import startable
    from swarm.experiments.space.engine_space import EngineSpace
    from swarm.experiments.space.search_space import Space, SpaceSettings

    infos, identity = workload.infos, workload.identity
    about = SpaceSettings(context=settings.context)
    whole = {"corpus_digest": identity["corpus"], "device": identity["device"]}
    if settings.engine is None:
        space = Space(infos, about, **whole)
    else:
        space = EngineSpace(startable(settings.engine), infos, about, **whole)
    plan = None
    if settings.agenda is not None:
        templates = {info.name: space.defaults(info)[0] for info in infos}
        plan = AgendaPlan(schema.load(settings.agenda), {info.name: info for info in infos}, templates)
    engine = AnalysisEngine(infos, settings.for_agents(), plan=plan, claimed=llm.findings if llm else tuple)
    return GenerationStrategy(space, engine, settings.seed, llm=llm, external=external)


def create(store: Store, settings: Settings, workload: Workload, workers: int, left_out: str = "") -> CampaignRecord:
    """Record a new campaign with the settings that it runs with, and what it leaves out of what it would do."""
    stored = settings.stored() | {
        "models": list(workload.models),
        "workers": workers,
        "lag": settings.lag or _lag(settings, workers),
        "identity": dict(workload.identity),
        "code_version": code_version(),
        **({"left_out": left_out} if left_out else {}),
    }
    budget = Budget(
        trials=settings.budget, seconds=settings.time_limit, tokens=settings.max_tokens, usd=settings.max_usd
    )
    for info in workload.infos:
        store.models.register(info)
    return store.campaigns.create(settings.name, stored, budget, settings.seed)


def _lag(settings: Settings, workers: int) -> int:
    """How many of the latest results a proposal does not see.

    On a GPU a trial that compiles kernels takes as long as dozens of others, which are not to wait for it.
    """
    if settings.engine is not None:
        return max(2, 2 * workers)
    return max(8, (4 if device_of(settings) == "cuda" else 2) * workers)
