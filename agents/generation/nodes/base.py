"""The seam of all kinds of trial, and what a choice may use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.schedule import Slot
from swarm.kernels import plugins
from swarm.kernels.errors import UnknownNameError
from swarm.memory.records import Arm, Proposal

PACKAGE = "swarm.agents.generation.nodes"


class Chooser(ABC):
    """One kind of trial: `arm` it is counted in and `share`, its default weight within the arm."""

    name: ClassVar[str]
    summary: ClassVar[str]
    arm: ClassVar[Arm] = "agents"
    share: ClassVar[float] = 0.0

    @abstractmethod
    def choose(self, slot: Slot, context: ProposalContext) -> Proposal | None:
        """The trial for this slot, a pure function of slot and context; None when there is nothing to do yet."""


def choosers() -> dict[str, Chooser]:
    """One of each kind by name."""
    found = plugins.load_all(PACKAGE, Chooser)  # type: ignore[type-abstract]
    return {name: kind() for name, kind in found.items()}


def weights(overrides: dict[str, float]) -> dict[Arm, dict[str, float]]:
    """Weights of the kinds by arm.

    Raises:
        UnknownNameError: an override names no kind of the agents' arm.
    """
    kinds = choosers()
    agents = {name: kind.share for name, kind in kinds.items() if kind.arm == "agents"}
    for name in overrides:
        if name not in agents:
            raise UnknownNameError("kind of trial", name, ", ".join(sorted(agents)))
    control = {name: kind.share for name, kind in kinds.items() if kind.arm == "control"}
    return {"agents": agents | overrides, "control": control}
