"""The seam of the LLM roles: what is asked, in which shape, and what of the answer stands up to the data."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import BaseModel, ConfigDict

from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialogue import Used
from swarm.kernels import plugins
from swarm.memory.records import Finding, Proposal

PACKAGE = "swarm.agents.llm.roles"
MAX_REASON = 600


class Shape(BaseModel):
    """Base of all answers: what is not asked for is passed over."""

    model_config = ConfigDict(extra="ignore")


Answer = TypeVar("Answer", bound=Shape)


@dataclass(frozen=True)
class Contribution:
    """What stood up to the data."""

    proposals: tuple[Proposal, ...] = ()
    findings: tuple[Finding, ...] = ()
    text: str = ""


class Role(ABC, Generic[Answer]):
    """One job of the swarm, done by an LLM. `name` is the module's and the prompt file's."""

    name: ClassVar[str]
    job: ClassVar[str]
    answer: type[Answer]
    urgency: ClassVar[int] = 0
    """Who is asked first of those that were asked equally often: the highest. A slow LLM gets to few of them."""

    @abstractmethod
    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """What this role is asked now, as data."""

    @abstractmethod
    def use(self, answer: Answer, context: ProposalContext) -> Used[Contribution]:
        """Keep what the data carries; say why the rest is refused. The LLM never has the last word on a number."""


def roles() -> dict[str, Role[Any]]:
    """One of each role by name."""
    found = plugins.load_all(PACKAGE, Role)  # type: ignore[type-abstract]
    return {name: kind() for name, kind in found.items()}


def author(role: str) -> str:
    """How a role's LLM mind signs."""
    return f"llm:{role}"
