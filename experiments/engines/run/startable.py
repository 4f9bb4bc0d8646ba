"""What an engine must say of itself to be started from here, beside what every engine tells."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.engines.base import Engine, Host, engines, named
from swarm.experiments.engines.run.flags import Flag, FlagValue
from swarm.kernels.errors import SwarmError, TrialError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from swarm.experiments.models.base import ModelInfo

Pieces = Sequence[int] | Sequence[str]
"""A text in the pieces that an engine is asked about: ids of its tokens, or words where it takes text alone."""

NextToken = dict[str, float]
"""Natural logarithms of the probabilities of the likeliest next tokens, by what names the token."""

ENABLED, DISABLED = "enabled", "disabled"
"""Values of switches, which are flags without a value: `--name` and `--no-name`."""


class MissingEngineError(SwarmError):
    """An engine that is not installed here."""


class RefusedError(TrialError):
    """An engine that does not come up with these flags, or refuses its model or a request."""

    outcome = "refused"


class NoProbabilitiesError(RefusedError):
    """An engine that does not say how likely next tokens are: only its speed and memory can be measured."""


@dataclass(frozen=True)
class Launch:
    """How an engine is to be started.

    Attributes:
        model: the weights: a file or a folder, as the engine takes them.
        port: port of 127.0.0.1 that it is to listen on.
        context: tokens that every client can have.
        clients: how many clients at once.
        cores: cores that it may use.
        flags: flags that differ from what the engine takes by itself.
    """

    model: Path
    port: int
    context: int
    clients: int = 1
    cores: int = 1
    flags: Mapping[str, FlagValue] = field(default_factory=dict)

    def options(self) -> list[str]:
        """The flags as arguments."""
        return [word for name, value in self.flags.items() for word in option(name, value)]


def option(name: str, value: FlagValue) -> list[str]:
    """A flag as arguments: `--name value`, and `--name` or `--no-name` for a switch."""
    switched = {ENABLED: [f"--{name}"], DISABLED: [f"--no-{name}"]}
    return switched.get(str(value), [f"--{name}", str(value)])


class StartableEngine(Engine):
    """An engine that can be started on loopback with flags.

    Attributes:
        install: the command that installs it.
        usual: flags that people usually give it, which every campaign measures first.
        top_tokens: how many of the likeliest next tokens it names with their probabilities.
    """

    install: ClassVar[str]
    usual: ClassVar[tuple[Mapping[str, FlagValue], ...]] = ()
    top_tokens: ClassVar[int] = 0

    @abstractmethod
    def executable(self) -> list[str]:
        """The command that starts it, without arguments.

        Raises:
            MissingEngineError: it is not installed, with the command that installs it.
        """

    def build(self) -> str:
        """What tells this build of it from others: the executable with its size and time."""
        from pathlib import Path

        file = Path(self.executable()[0])
        facts = file.stat()
        return f"{file.name} of {facts.st_size} bytes, {int(facts.st_mtime)}"

    @abstractmethod
    def arguments(self, launch: Launch) -> list[str]:
        """What follows the executable."""

    @abstractmethod
    def flags(self, info: ModelInfo) -> tuple[Flag, ...]:
        """The flags that may be searched for a model; those that others depend on come first."""

    @abstractmethod
    def weights(self, model: str) -> Path:
        """The file or folder of a model that it can read.

        Raises:
            ModelError: it has none, or the engine does not read its kind.
        """

    def environment(self, launch: Launch) -> Mapping[str, str]:
        """Environment variables beside those of this process."""
        del launch
        return {}

    def is_ready(self, host: Host) -> bool:
        """Whether it answers requests."""
        return host.get("/health").status == 200

    def load(self, host: Host, launch: Launch) -> str:
        """Load the model where that is not done at the start; returns the name that requests call it by.

        Raises:
            RefusedError: it cannot.
        """
        del launch
        models = host.get("/v1/models").entries("data")
        return str(models[0].get("id")) if models else self.fallback_model or ""

    def pieces(self, host: Host, model: str, text: str) -> Pieces:
        """A text in pieces that prompts can end between; words with the space before them unless it tells tokens."""
        del host, model
        return words(text)

    def next_tokens(self, host: Host, model: str, pieces: Pieces, places: Sequence[int]) -> list[NextToken]:
        """What it expects after the first `n` pieces, for each n of `places`, which ascend.

        Raises:
            NoProbabilitiesError: it answers without, as the default does.
        """
        del host, model, pieces, places
        raise NoProbabilitiesError(f"{self.title} tells no probabilities.")


def words(text: str) -> list[str]:
    """A text cut before every space that follows a word."""
    import re

    return re.findall(r"\s*\S+", text)


def startable(name: str) -> StartableEngine:
    """The engine of a name (`llama.cpp`, `mlx-lm`, ...).

    Raises:
        UnknownNameError: there is no such engine.
        UsageError: it cannot be started from here.
    """
    found = named(name)
    if not isinstance(found, StartableEngine):
        others = ", ".join(called for called, engine in engines().items() if isinstance(engine, StartableEngine))
        raise UsageError(
            f"{found.title} cannot be started from here.", f"Start it and use `swarm probe`, or: {others}."
        )
    return found
