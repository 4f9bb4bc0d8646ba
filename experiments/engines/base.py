"""What all engines have in common: how one is recognised, what it tells about memory and time, what it has to be asked.

An engine that nobody recognises is measured all the same: everything but these extras is the common protocol.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from swarm.kernels import plugins
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.kernels.spec import KVSpec

PACKAGE = "swarm.experiments.engines"


@dataclass(frozen=True)
class Reply:
    """The answer to a GET request: status 0 means that nothing came back."""

    status: int
    text: str = ""
    server: str = ""

    @property
    def json(self) -> Any:
        """The body as JSON; an empty mapping when it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return {}

    def field(self, key: str) -> Any:
        """A field of a JSON object; None when there is none."""
        return self.json.get(key) if isinstance(self.json, dict) else None

    @property
    def reason(self) -> str:
        """What the server says went wrong, in one line; else its status."""
        return reason_in(self.json)[:200].rstrip(".") or (f"status {self.status}" if self.status else "no answer")

    def entries(self, key: str) -> list[dict[str, Any]]:
        """The objects in a list that is a field of a JSON object; none when there is no such list."""
        found = self.field(key)
        return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []

    def entry(self, key: str, **wanted: str) -> dict[str, Any]:
        """The first of `entries` in which any of the fields has its wanted value; an empty one when there is none."""
        return next(
            (entry for entry in self.entries(key) if any(entry.get(name) == value for name, value in wanted.items())),
            {},
        )


def reason_in(answer: object) -> str:
    """What a server says went wrong, in one line, from its answer as JSON; empty where it says nothing."""
    while isinstance(answer, dict):
        answer = next((answer[key] for key in ("message", "error", "detail") if answer.get(key)), "")
    return " ".join(str(answer or "").split())


class Host(ABC):
    """Where the engine runs: answers plain requests on paths beside the OpenAI protocol."""

    @abstractmethod
    def get(self, path: str) -> Reply:
        """GET a path such as `/props`; never raises."""

    @abstractmethod
    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """POST a JSON body to a path such as `/tokenize`; never raises."""


@dataclass(frozen=True)
class Told:
    """What an engine says of itself: version, the longest context it takes, bytes of memory by kind."""

    version: str = ""
    max_context: int | None = None
    memory: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class KVSetting:
    """A choice of an engine on which the form of its KV cache depends.

    Attributes:
        spellings: how people write it: options, environment variables, fields of a configuration.
        values: what it may be, the engine's default first; none where any whole number will do.
    """

    spellings: tuple[str, ...]
    values: tuple[str, ...]


Chosen = Mapping[str, str]
"""What settings are set to, by name; every setting is there."""


class Engine(ABC):
    """One engine. `name` is the module's; `fallback_model` stands for the loaded model when none is listed.

    `called` is what people call it on the command line. `extra_body` goes with every request: what makes the engine
    generate as many tokens as asked for. `kv_settings` are the choices that its KV cache depends on, by names that
    `kv`, `command` and `kv_notes` know.
    """

    name: ClassVar[str]
    called: ClassVar[str] = ""
    title: ClassVar[str]
    kv_settings: ClassVar[Mapping[str, KVSetting]] = {}
    fallback_model: ClassVar[str | None] = None
    extra_body: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def recognises(self, host: Host) -> bool:
        """Whether the engine at the host is this one."""

    def told(self, host: Host, model: str) -> Told:
        """What it says about itself and a model; called while the model is loaded."""
        del host, model
        return Told()

    def timings(self, extra: Mapping[str, Any]) -> dict[str, float]:
        """Its own `prefill_tokens_per_second` and `decode_tokens_per_second` in the last chunk of a stream, if any."""
        del extra
        return {}

    def probability_fields(self, top: int) -> Mapping[str, Any]:
        """Fields of a completions request that ask for the log-probabilities of so many likeliest tokens."""
        return {"logprobs": top}

    def fresh_fields(self) -> Mapping[str, Any] | None:
        """Fields of a request under which nothing of earlier prompts is used; None where it cannot be asked."""
        return None

    remembered_prompts: ClassVar[int] = 10
    """How many earlier prompts it remembers, where it cannot be asked to forget them."""

    chunk: ClassVar[tuple[str, int]] = ("", 0)
    """The flag for the tokens of a prompt that are computed at a time, and what it is by itself; 0: not known."""

    def kv(self, chosen: Chosen) -> KVSpec:
        """The cache that it keeps under these settings, or the nearest that we can measure (`kv_notes` say so).

        Raises:
            UsageError: it refuses them.
        """
        raise UsageError(f"nothing is known about the KV caches of {self.title}: {dict(chosen)}.", "")

    def command(self, chosen: Chosen, skipped: Sequence[int]) -> str:
        """The command line, environment or configuration that sets them.

        Args:
            chosen: the settings.
            skipped: layers to leave in 16 bit; empty where `skips_layers` is false.
        """
        raise UsageError(f"nothing is known about the KV caches of {self.title}: {dict(chosen)}, {skipped}.", "")

    skips_layers: ClassVar[bool] = False
    """Whether it can leave chosen layers in 16 bit."""

    def kv_notes(self, chosen: Chosen) -> list[str]:
        """In what its cache differs from the one that `kv` gives for it."""
        del chosen
        return []


class UnknownEngine(Engine):
    """Any server that speaks the protocol."""

    name = "unknown"
    title = "an OpenAI-compatible server"

    def recognises(self, host: Host) -> bool:
        """Always: the last resort."""
        del host
        return True


def engines() -> dict[str, Engine]:
    """Every engine by what people call it."""
    found = plugins.load_all(PACKAGE, Engine)  # type: ignore[type-abstract]
    return {kind.called or name: kind() for name, kind in found.items()}


def named(called: str) -> Engine:
    """The engine that people call so; `_` and `-` are the same, and so is the name of its module.

    Raises:
        UnknownNameError: there is none, with those that there are.
    """
    known = engines()
    wanted = called.strip().lower().replace("_", "-")
    for name, engine in known.items():
        if wanted in (name, engine.name.replace("_", "-")):
            return engine
    raise UnknownNameError("engine", called, ", ".join(known))


def recognise(host: Host) -> Engine:
    """The engine that runs at a host."""
    for kind in plugins.load_all(PACKAGE, Engine).values():  # type: ignore[type-abstract]
        engine = kind()
        if engine.recognises(host):
            return engine
    return UnknownEngine()
