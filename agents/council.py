"""The agents as the campaign sees them: propose, analyse, summarise. Pure functions of seed, number and history.

Knows who is asked for what; the choices themselves are made in `slots`, `proposers`, `analysts` and `scribe`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.agents.base import AgentSettings, History, analysts
from swarm.agents.desk import Desk
from swarm.agents.schedule import Schedule
from swarm.agents.slots.base import choosers, weights
from swarm.agents.study import ModelStudy
from swarm.kernels.errors import UsageError
from swarm.memory.records import Finding, Proposal

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.space import Space


class Council:
    """All agents of a campaign.

    Any driver that gives the same history gets the same proposals: nothing that a council remembers between calls
    changes an answer, it only saves time.

    Args:
        space: the search space over the models.
        infos: facts about the models that the campaign runs on, in order.
        settings: shares and thresholds.
        seed: seed of the campaign.

    Raises:
        UsageError: no model, or a share of an unknown kind.
    """

    def __init__(self, space: Space, infos: Sequence[ModelInfo], settings: AgentSettings, seed: int) -> None:
        if not infos:
            raise UsageError("there is no model to run on.", "Name one with --models; `swarm models` lists them.")
        self._space = space
        self._infos = {info.name: info for info in infos}
        self._settings = settings
        self._seed = seed
        self._choosers = choosers()
        self._analysts = [kind() for kind in analysts().values()]
        self._studies: dict[tuple[str, str], ModelStudy] = {}
        defaults = {info.name: len(space.defaults(info)) for info in infos}
        self.schedule = Schedule(defaults, weights(settings.shares), settings.control_share)

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number. It is new: no earlier record of the history has its fingerprint.

        Args:
            number: number of the trial in the campaign, from 0.
            history: `History.before(number, ...)`.
        """
        history = history.at(number)
        desk = self.desk(number, history)
        slot = self.schedule.slot(number)
        for kind in (slot.kind, "quality"):
            proposal = self._choosers[kind].choose(slot, desk)
            if proposal is not None:
                return proposal
        raise AssertionError("the quality slot always has a proposal")

    def desk(self, number: int, history: History) -> Desk:
        """What lies before whoever proposes trial `number`."""

        def study(model: str, arm: str) -> ModelStudy:
            key = (model, arm)
            if key not in self._studies:
                self._studies[key] = ModelStudy(self._space, self._infos[model], self._settings, self._seed)
            seen = history.records if arm == "agents" else [r for r in history.records if r.arm != "agents"]
            self._studies[key].feed(seen)
            return self._studies[key]

        return Desk(number, self._seed, self._space, self._infos, self._settings, history, study)

    def analyse(self, number: int, history: History) -> list[Finding]:
        """What the analysts find in the history before trial `number`, one finding per key.

        Args:
            number: number of the next trial; later records are left out.
            history: what is known.
        """
        seen = history.at(number)
        found = [finding for analyst in self._analysts for finding in analyst.analyse(seen, self._infos)]
        return list({finding.key: finding for finding in found}.values())

    def is_milestone(self, number: int) -> tuple[bool, bool]:
        """Whether the driver should analyse, and summarise, before it proposes trial `number`."""
        settings = self._settings
        return (
            number > 0 and number % settings.analyse_every == 0,
            number > 0 and number % settings.summarise_every == 0,
        )
