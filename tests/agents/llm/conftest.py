"""Conversations with a real HTTP server that plays an LLM endpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from llm_server import Server, breaks_off, completion, hangs, raw, says, serving, status, waits

from swarm.agents.llm.budget import CallBudget, Price
from swarm.agents.llm.client import Client
from swarm.agents.llm.dialogue import Dialogue
from swarm.agents.llm.endpoint import LlmEndpoint, LlmSettings
from swarm.agents.llm.tools import Tools
from swarm.memory.records import Budget
from swarm.memory.store import Store


@pytest.fixture
def acts() -> Any:
    """The behaviours, so that tests need no import."""

    class Acts:
        pass

    found = Acts()
    for behaviour in (says, status, hangs, breaks_off, raw, completion, waits):
        setattr(found, behaviour.__name__, staticmethod(behaviour))
    return found


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture
def store(empty_store, tmp_path) -> Iterator[Store]:
    with Store.open(shutil.copy(empty_store, tmp_path / "swarm.db")) as opened:
        yield opened


@pytest.fixture
def new_campaign(store) -> Callable[..., int]:
    def create(**budget: Any) -> int:
        return store.campaigns.create(None, {}, Budget(trials=1_000, **budget), 0).id

    return create


@pytest.fixture
def converse(server, store) -> Iterator[Callable[..., Dialogue]]:
    made: list[Dialogue] = []

    def create(
        *,
        price: Price | None = None,
        tools: bool = False,
        budget: dict[str, Any] | None = None,
        key: str = "",
        **settings: Any,
    ) -> Dialogue:
        campaign = store.campaigns.create(None, {}, Budget(trials=1_000, **(budget or {})), 0).id
        defaults = {"llm": server.url, "llm_timeout": 1.0, "llm_output_tokens": 200}
        call_budget = CallBudget(store, campaign, price or Price(1.0, 2.0))
        dialogue = Dialogue(
            Client(LlmEndpoint(server.url, "test-model", key), settings.get("llm_timeout", 1.0)),
            call_budget,
            Tools(store, campaign) if tools else None,
            LlmSettings(**(defaults | settings)),
        )
        made.append(dialogue)
        return dialogue

    yield create
    for dialogue in made:
        dialogue.close()
