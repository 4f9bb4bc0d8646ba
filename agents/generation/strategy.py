"""Proposes a campaign's trials: the plan says which kind comes next, a node of that kind says what it tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.generation.context import ProposalContext
from swarm.agents.generation.nodes.base import GenerationNode, nodes
from swarm.agents.generation.nodes.external import ExternalNode
from swarm.agents.generation.nodes.long_context import SHARE as LONG_SHARE
from swarm.agents.generation.nodes.long_context import LongContextNode
from swarm.agents.generation.nodes.published_claims import SHARE, PublishedClaimsNode
from swarm.agents.generation.nodes.search import DefaultNode
from swarm.agents.history import FINISHED, History
from swarm.agents.samplers.base import samplers
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory.records import Arm, Proposal

if TYPE_CHECKING:
    from swarm.agents.llm.runner import RoleRunner
    from swarm.agents.settings import AgentSettings
    from swarm.experiments.space.search_space import Space

FALL_BACK = ("design", "replication", "quality")
"""Nodes that take over a turn that has nothing to do: the design, what open findings wait for, new configurations."""

Plan = tuple[Arm, str, str, int]
"""Arm, node and model of a trial number, and how many earlier trials the plan has of this node on this model."""


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
        UsageError: no model.
        UnknownNameError: a share of an unknown kind of trial.
    """

    def __init__(
        self,
        space: Space,
        engine: AnalysisEngine,
        seed: int,
        *,
        llm: RoleRunner | None = None,
        external: Callable[[], Sequence[Proposal]] = tuple,
    ) -> None:
        if not engine.infos:
            raise UsageError("there is no model to run on.", "Name one with --models; `swarm models` lists them.")
        self.engine = engine
        self._space = space
        self._seed = seed
        self._llm = llm
        self._external = external
        self._nodes = nodes()
        self._samplers = {name: sampler.propose for name, sampler in samplers().items()}
        self.defaults = {name: space.defaults(info) for name, info in engine.infos.items()}
        """What is measured first of each model."""
        self.templates = {name: specs[0] for name, specs in self.defaults.items()}
        self.schedule = Schedule(
            {name: len(specs) for name, specs in self.defaults.items()},
            weights(self._nodes, _shares(engine.settings, self._nodes, space.kinds), planned=engine.plan is not None),
            engine.settings.control_share,
        )

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number. It is new: no earlier record of the history has its fingerprint.

        Args:
            number: number of the trial in the campaign, from 0.
            history: `History.before(number, ...)`.
        """
        history = history.at(number)
        if self._llm is not None:
            self._llm.tick(self.context(number, history))
        context = self.context(number, history)
        names = [context.node, *FALL_BACK]
        if context.arm == "agents":
            names.insert(0, ExternalNode.name)
        if any(record.outdated for record in history.records):
            names.insert(0, DefaultNode.name)  # the present versions need defaults of their own to compare with
        for name in names:
            proposal = self._nodes[name].propose(context)
            if proposal is not None:
                return proposal
        raise AssertionError("the quality node always has a proposal")

    def context(self, number: int, history: History) -> ProposalContext:
        """What whoever proposes trial `number` can use."""
        return ProposalContext(
            number,
            *self.schedule.at(number),
            seed=self._seed,
            space=self._space,
            infos=self.engine.infos,
            templates=self.templates,
            settings=self.engine.settings,
            history=history,
            findings=lambda: self.engine.standing(number, history),
            samplers=self._samplers | (self._llm.samplers() if self._llm is not None else {}),
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
        return self._llm.text(context, wait=self._llm.summary_wait if idle else 0.0)


def _shares(
    settings: AgentSettings, known: Mapping[str, GenerationNode], only: Mapping[str, float]
) -> dict[str, float]:
    """The weights that differ from the default ones."""
    long = {LongContextNode.name: LONG_SHARE} if settings.long is not None else {}
    others = {name: 0.0 for name, kind in known.items() if kind.arm == "agents"} if only else {}
    return {**others, **only, **long, **settings.shares}


def weights(
    kinds: Mapping[str, GenerationNode], overrides: Mapping[str, float], *, planned: bool = False
) -> dict[Arm, dict[str, float]]:
    """Weights of the kinds of trial by arm.

    Args:
        kinds: the nodes by name.
        overrides: weights of kinds of the agents' arm that are not their default shares.
        planned: whether published claims have trials to run; they get most of the agents' arm then.

    Raises:
        UnknownNameError: an override names no kind of the agents' arm.
    """
    agents = {name: kind.share for name, kind in kinds.items() if kind.arm == "agents"}
    for name in overrides:
        if name not in agents:
            raise UnknownNameError("kind of trial", name, ", ".join(sorted(agents)))
    agents |= overrides
    if planned and PublishedClaimsNode.name not in overrides:
        agents[PublishedClaimsNode.name] = SHARE / (1 - SHARE) * sum(agents.values())
    return {"agents": agents, "control": {name: kind.share for name, kind in kinds.items() if kind.arm == "control"}}


@dataclass
class Stride:
    """Shares turns out by weight, so that after any number of turns no count is off by one or more.

    Stride scheduling: the stream that is furthest behind its share is next; ties go to the first.
    """

    weights: Mapping[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    turns: int = 0

    def next(self) -> str:
        """The stream whose turn it is."""
        total = sum(self.weights.values())
        self.turns += 1
        streams = [name for name, weight in self.weights.items() if weight > 0]
        # Rounded, so that sums of shares that are equal on paper tie on every machine.
        behind = {name: round(self.turns * self.weights[name] / total - self.counts[name], 9) for name in streams}
        chosen = max(streams, key=behind.__getitem__)
        self.counts[chosen] += 1
        return chosen


class Schedule:
    """Assigns arm, node and model to every trial number: a deterministic low-discrepancy plan.

    First the default configurations, model by model in turns; then arms by share; in an arm the kinds by weight;
    in a kind the models in turns. A pure function of the number: `at(n)` is the same in whichever order it is
    asked for.

    Args:
        defaults: how many default configurations each model has.
        kinds: weights of the kinds of trial, by arm.
        control_share: share of the control arm in the trials after the defaults.
    """

    def __init__(
        self, defaults: Mapping[str, int], kinds: Mapping[Arm, Mapping[str, float]], control_share: float
    ) -> None:
        self._models = tuple(defaults)
        self._plans: list[Plan] = [
            ("defaults", "default", model, index)
            for index in range(max(defaults.values(), default=0))
            for model, count in defaults.items()
            if index < count
        ]
        self._arms = Stride({"agents": 1 - control_share, "control": control_share})
        self._kinds = {arm: Stride(weights) for arm, weights in kinds.items()}
        self._turns: Counter[str] = Counter()

    def at(self, number: int) -> Plan:
        """The plan for trial `number`."""
        while len(self._plans) <= number:
            arm: Arm = "agents" if self._arms.next() == "agents" else "control"
            kind = self._kinds[arm].next()
            index, place = divmod(self._turns[kind], len(self._models))
            self._turns[kind] += 1
            self._plans.append((arm, kind, self._models[place], index))
        return self._plans[number]
