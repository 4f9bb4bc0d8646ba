"""`swarm.recommend`, and the trials that would decide most: run as a small campaign of the store, then asked again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from swarm.kernels.errors import UsageError
from swarm.memory.store import Store
from swarm.orchestrator.views.recommendation import MOST_TRIALS, known_models, recommendation

if TYPE_CHECKING:
    from swarm.agents.analysis.recommendation import Recommendation
    from swarm.experiments.models.base import ModelInfo
    from swarm.orchestrator.settings import Settings


def recommend(
    model: str,
    *,
    bits: float | None = None,
    memory: float | None = None,
    context: int | None = None,
    tolerance: float | None = None,
    run: int = 0,
    store: str | os.PathLike[str] | None = None,
) -> Recommendation:
    """One configuration of the cache for a model, from what a store has measured on it and on others.

    Args:
        model: a model that the store knows, a bundled name, a Hugging Face id or a folder.
        bits: most bits per value.
        memory: in its place GB for weights and cache, with a context.
        context: tokens that the cache shall hold.
        tolerance: most KLD in nats: the cheapest configuration whose upper limit stays below it is chosen.
        run: trials that would decide most to run first, in a campaign of their own.
        store: a SQLite file or `postgresql+psycopg://...`; `swarm.db`.

    Raises:
        SwarmError: the store or the model is not what it should be, the limits are not clear, or nothing that was
            measured lies within them.
    """
    from swarm.orchestrator import launching
    from swarm.orchestrator.settings import store_url

    url = store_url(None if store is None else os.fspath(store))
    ask = {"bits": bits, "memory": memory, "context": context, "tolerance": tolerance}
    if run:
        settings = deciding(url, model, run, ask)
        with launching.start(settings) as campaign:
            campaign.result(progress=False)
    return answer(url, model, ask)


def answer(url: str, model: str, ask: dict[str, float | int | None], trials: int = 3) -> Recommendation:
    """The recommendation from a store as it is now."""
    with Store.read(url) as store:
        return recommendation(store, model, info=_elsewhere(store, model), trials=trials, **ask)  # type: ignore[arg-type]


def deciding(url: str, model: str, run: int, ask: dict[str, float | int | None]) -> Settings:
    """The settings of a campaign of the trials that would decide most, on the text of those in the store.

    Raises:
        UsageError: too many trials are asked for, or none would decide anything.
    """
    from swarm.orchestrator.asked import AskedTrial
    from swarm.orchestrator.settings import load

    if not 1 <= run <= MOST_TRIALS:
        raise UsageError(f"--run {run} is out of range.", f"Ask for 1 to {MOST_TRIALS} trials.")
    wanted = answer(url, model, ask, run).decisive
    if not wanted:
        raise UsageError("no trial would decide anything: 16 bit fits.", "Leave --run out.")
    spec = wanted[0].spec
    with Store.read(url) as store:
        corpora = {
            campaign.settings.get("identity", {}).get("corpus"): campaign.settings.get("corpus")
            for campaign in store.campaigns.list()
        }
    asked = tuple(AskedTrial(kv=one.spec.kv, replicate=one.spec.replicate, why=one.why[:1_000]) for one in wanted)
    return load(
        models=(spec.model,), budget=len(asked), store=url, context=spec.context, asked=asked, llm="none",
        corpus=corpora.get(spec.corpus_digest),
    )  # fmt: skip


def _elsewhere(store: Store, model: str) -> ModelInfo | None:
    """Facts about a model that neither the store knows nor we bring."""
    from swarm.experiments.models import registry

    return None if model in known_models(store) else registry.describe(model)


def recipe(url: str, found: Recommendation) -> str:
    """The recipe of a recommendation as the text of its file, with learned factors and evidence where it has them.

    Raises:
        SwarmError: the learned factors of its trial do not come out here.
    """
    from swarm.experiments.deploy.recipe import Recipe, plan
    from swarm.orchestrator.recipes import of_trial
    from swarm.orchestrator.views.speed import times_of

    choice = found.choice
    if not choice.trials:
        return Recipe(model=found.model, kv=choice.kv, plan=plan(choice.kv)).text()
    with Store.read(url) as store:
        record = store.trials.get(choice.trials[0])
        campaign, times = store.campaigns.get(record.campaign_id), times_of(store, record)
    corpus = campaign.settings.get("corpus")
    return of_trial(record, campaign.name, Path(corpus) if corpus else None, times).text()
