"""Proposes a campaign's trials: which kind comes next, and which configuration it tries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes import offered
from swarm.agents.generation.nodes.agenda import SHARE
from swarm.agents.generation.nodes.base import choosers, weights
from swarm.agents.generation.schedule import Schedule
from swarm.agents.history import FINISHED, History
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.kernels.errors import UsageError
from swarm.memory.records import Proposal

if TYPE_CHECKING:
    from swarm.agents.llm.runner import Minds
    from swarm.experiments.space.search_space import Space

FALL_BACK = ("replication", "quality")
"""Kinds that take over a turn that has nothing to do: first what open findings wait for, then new configurations."""


class GenerationStrategy:
    """Proposes trials, as a pure function of seed, number and history.

    Any driver that gives the same history gets the same proposals: nothing that a strategy remembers between calls
    changes an answer, it only saves time.

    Args:
        space: the search space over the models.
        engine: what is found in the results, and the models, settings and published claims of the campaign.
        seed: seed of the campaign.
        llm: LLM roles that propose beside the built-in samplers; with them, answers depend on what an LLM said.
        external: what people and agents outside have left for the campaign, oldest first; answers depend on when it
            came.

    Raises:
        UsageError: no model, or a share of an unknown kind.
    """

    def __init__(
        self,
        space: Space,
        engine: AnalysisEngine,
        seed: int,
        *,
        llm: Minds | None = None,
        external: Callable[[], Sequence[Proposal]] = tuple,
    ) -> None:
        if not engine.infos:
            raise UsageError("there is no model to run on.", "Name one with --models; `swarm models` lists them.")
        self.engine = engine
        self._space = space
        self._seed = seed
        self._llm = llm
        self._external = external
        self._choosers = choosers()
        self._studies: dict[tuple[str, str], ModelStudy] = {}
        defaults = {name: space.defaults(info) for name, info in engine.infos.items()}
        self._templates = {name: specs[0] for name, specs in defaults.items()}
        settings = engine.settings
        kinds = weights(settings.shares)
        if engine.plan is not None and "agenda" not in settings.shares:
            kinds["agents"]["agenda"] = SHARE / (1 - SHARE) * sum(kinds["agents"].values())
        counts = {name: len(specs) for name, specs in defaults.items()}
        self.schedule = Schedule(counts, kinds, settings.control_share)

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number. It is new: no earlier record of the history has its fingerprint.

        Args:
            number: number of the trial in the campaign, from 0.
            history: `History.before(number, ...)`.
        """
        context = self.context(number, history.at(number))
        if self._llm is not None:
            self._llm.tick(context)
            context = replace(context, guests=self._llm.guests())
        slot = self.schedule.slot(number)
        first = (offered.NAME,) if slot.arm == "agents" else ()
        for kind in (*first, slot.kind, *FALL_BACK):
            proposal = self._choosers[kind].choose(slot, context)
            if proposal is not None:
                return proposal
        raise AssertionError("the quality slot always has a proposal")

    def context(self, number: int, history: History) -> ProposalContext:
        """What whoever proposes trial `number` can use."""

        def study(model: str, arm: str) -> ModelStudy:
            key = (model, arm)
            if key not in self._studies:
                self._studies[key] = ModelStudy(self._space, self.engine.infos[model], self.engine.settings, self._seed)
            seen = history.records if arm == "agents" else [r for r in history.records if r.arm != "agents"]
            self._studies[key].feed(seen)
            return self._studies[key]

        return ProposalContext(
            number=number,
            seed=self._seed,
            space=self._space,
            infos=self.engine.infos,
            templates=self._templates,
            settings=self.engine.settings,
            history=history,
            study=study,
            findings=lambda: self.engine.standing(number, history),
            plan=self.engine.plan,
            external=self._external,
        )

    def commentary(self, history: History) -> str:
        """What the LLM says about the campaign in plain words, for the summary; empty without an LLM.

        It is waited for only when no trial is left that could run in the meantime.
        """
        if self._llm is None:
            return ""
        idle = all(record.state in FINISHED for record in history.records)
        context = self.context(len(history.records), history)
        return self._llm.text(context, wait=self._llm.patience if idle else 0.0)
