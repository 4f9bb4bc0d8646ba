"""A campaign of trials that do nothing, to try a machine, a cluster or the orchestrator itself.

Stands in for strategy and engine; everything else is what a real campaign uses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.experiments.protocols.simulated import Fault, instruct
from swarm.kernels.errors import UsageError
from swarm.memory.records import Finding, Proposal, Score, Summary

if TYPE_CHECKING:
    from swarm.agents.history import History
    from swarm.experiments.spec import Device

MODELS = ("noop-a", "noop-b")
_PART = re.compile(r"(?:(?P<ms>\d+)|(?P<fault>[a-z_]+)@(?P<number>\d+))")


@dataclass(frozen=True)
class Rehearsal:
    """Proposes `noop` trials that take some milliseconds; those in `faults` (by number) end in that way."""

    milliseconds: int
    faults: Mapping[int, Fault]
    seed: int
    device: Device = "cpu"

    @classmethod
    def parse(cls, text: str, seed: int, device: Device = "cpu") -> Rehearsal:
        """Read `MILLISECONDS[,FAULT@NUMBER...]`, e.g. `5,crash@7,hang@20`.

        Raises:
            UsageError: it is something else.
        """
        milliseconds, faults = 2, {}
        for part in text.split(","):
            match = _PART.fullmatch(part.strip())
            name = ((match and match["fault"]) or "none").upper()
            if match is None or name not in Fault.__members__:
                known = ", ".join(fault.name.lower() for fault in Fault if fault)
                raise UsageError(
                    f"--rehearsal {text}: {part!r} is not understood.",
                    f"Example: 5,crash@7 (milliseconds, then faults by trial number; faults: {known}).",
                )
            if match["ms"]:
                milliseconds = int(match["ms"])
            else:
                faults[int(match["number"])] = Fault[name]
        return cls(milliseconds, faults, seed, device)

    def propose(self, number: int, history: History) -> Proposal:  # noqa: ARG002
        """The trial with this number."""
        spec = instruct(
            number + 1_000_000 * self.seed,
            self.faults.get(number, Fault.NONE),
            self.milliseconds,
            MODELS[number % len(MODELS)],
            device=self.device,
        )
        return Proposal(spec=spec, proposer="rehearsal", arm="control", rationale="Does nothing, to try the machinery.")

    def commentary(self, history: History) -> str:  # noqa: ARG002
        """There is nothing to say."""
        return ""

    def analyse(self, number: int, history: History) -> Sequence[Finding]:  # noqa: ARG002
        """Nothing was measured, so nothing is found."""
        return ()

    def score(self, history: History) -> Mapping[int, Score]:  # noqa: ARG002
        """Nothing was predicted."""
        return {}

    def is_milestone(self, number: int) -> tuple[bool, bool]:  # noqa: ARG002
        """There is nothing to analyse."""
        return False, False

    def summarise(self, history: History, words: str = "") -> Summary:  # noqa: ARG002
        """Says what this was."""
        text = "A rehearsal: the trials did nothing and their numbers mean nothing."
        return Summary(title="Rehearsal", text=text, evidence=(), author="rehearsal")
