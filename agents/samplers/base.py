"""What all samplers have in common. A sampler is known by its `name`, which its trials carry as their proposer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from swarm.agents.generation.context import ProposalContext
from swarm.kernels import plugins
from swarm.memory.records import Proposal

PACKAGE = "swarm.agents.samplers"


class Sampler(ABC):
    """One way to come up with a configuration for the quality trials of the agents' arm."""

    name: ClassVar[str]

    @abstractmethod
    def propose(self, context: ProposalContext) -> Proposal | None:
        """A new configuration for the context's model, a pure function of the context; None without an idea."""


def samplers() -> dict[str, Sampler]:
    """One of each sampler by name, in the order of the names."""
    return {name: kind() for name, kind in plugins.load_named(PACKAGE, Sampler).items()}  # type: ignore[type-abstract]
