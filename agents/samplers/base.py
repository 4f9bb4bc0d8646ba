"""The seam of the minds that propose configurations for the quality trials of the agents' arm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from swarm.agents.generation.context import ProposalContext
from swarm.kernels import plugins
from swarm.memory.records import Proposal

PACKAGE = "swarm.agents.samplers"


class Proposer(ABC):
    """One way to come up with a configuration. One file is one proposer, named like its file."""

    name: ClassVar[str]
    summary: ClassVar[str]

    @abstractmethod
    def propose(self, model: str, context: ProposalContext) -> Proposal | None:
        """A new configuration for a model, a pure function of the context; None when it has no idea now."""


def proposers() -> dict[str, Proposer]:
    """One of each proposer by name."""
    found = plugins.load_all(PACKAGE, Proposer)  # type: ignore[type-abstract]
    return {name: kind() for name, kind in found.items()}
