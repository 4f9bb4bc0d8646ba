"""What all kinds of trial have in common. A module of this package may hold several; each is known by its `name`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from swarm.agents.generation.context import ProposalContext
from swarm.kernels import plugins
from swarm.memory.records import Arm, Proposal

PACKAGE = "swarm.agents.generation.nodes"


class GenerationNode(ABC):
    """One kind of trial: `arm` that it is counted in and `share`, its default weight within the arm."""

    name: ClassVar[str]
    arm: ClassVar[Arm] = "agents"
    share: ClassVar[float] = 0.0

    @abstractmethod
    def propose(self, context: ProposalContext) -> Proposal | None:
        """A trial of this kind, a pure function of the context; None when there is nothing to do yet."""


def nodes() -> dict[str, GenerationNode]:
    """One of each kind by name, in the order of the names."""
    return {name: kind() for name, kind in plugins.load_named(PACKAGE, GenerationNode).items()}  # type: ignore[type-abstract]
