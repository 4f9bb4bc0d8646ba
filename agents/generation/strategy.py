"""The agents as the campaign sees them: propose, analyse, summarise. Pure functions of seed, number and history.

Knows who is asked for what; the choices themselves are made in `slots`, `proposers`, `analysts` and `scribe`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from swarm.agents.analysis import judge
from swarm.agents.analysis.base import analysts
from swarm.agents.analysis.judge import Referee, Score
from swarm.agents.generation.context import Desk
from swarm.agents.generation.nodes import offered
from swarm.agents.generation.nodes.agenda import SHARE
from swarm.agents.generation.nodes.base import choosers, weights
from swarm.agents.generation.schedule import Schedule
from swarm.agents.history import FINISHED, History
from swarm.agents.published_claims.plan import PREFIX, Programme
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.summary import Scribe
from swarm.kernels.errors import UsageError
from swarm.memory.records import Finding, Proposal, Summary

if TYPE_CHECKING:
    from swarm.agents.llm.runner import Minds
    from swarm.agents.published_claims.schema import Agenda
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.space.search_space import Space


OUTSIDERS = ("llm:", "mcp:")
"""How those sign whose claims the analysts would not find by themselves."""

FALL_BACK = ("replication", "quality")
"""Kinds that take over a turn that has nothing to do: first what open findings wait for, then new configurations."""


class Council:
    """All agents of a campaign.

    Any driver that gives the same history gets the same proposals: nothing that a council remembers between calls
    changes an answer, it only saves time.

    Args:
        space: the search space over the models.
        infos: facts about the models that the campaign runs on, in order.
        settings: shares and thresholds.
        seed: seed of the campaign.
        agenda: published claims to decide; takes most of the agents' trials while it lasts.
        minds: LLM minds that work beside the built-in ones; with them, answers depend on what an LLM said.
        offers: what was left for the campaign from outside, oldest first; answers depend on when it came.

    Raises:
        UsageError: no model, or a share of an unknown kind.
    """

    def __init__(
        self,
        space: Space,
        infos: Sequence[ModelInfo],
        settings: AgentSettings,
        seed: int,
        *,
        agenda: Agenda | None = None,
        minds: Minds | None = None,
        offers: Callable[[], Sequence[Proposal]] = tuple,
    ) -> None:
        if not infos:
            raise UsageError("there is no model to run on.", "Name one with --models; `swarm models` lists them.")
        self._space = space
        self._infos = {info.name: info for info in infos}
        self._settings = settings
        self._seed = seed
        self._minds = minds
        self._offers = offers
        self._choosers = choosers()
        self._analysts = [kind() for kind in analysts().values()]
        self._referee = Referee(self._analysts, self._infos)
        self._scribe = Scribe(self._infos, settings)
        self._analyses: dict[str, Sequence[Finding]] = {}
        self._judged: dict[str, Sequence[Finding]] = {}
        self._studies: dict[tuple[str, str], ModelStudy] = {}
        defaults = {info.name: space.defaults(info) for info in infos}
        self._templates = {name: specs[0] for name, specs in defaults.items()}
        counts = {name: len(specs) for name, specs in defaults.items()}
        self.programme = Programme(agenda, self._infos, self._templates) if agenda else None
        kinds = weights(settings.shares)
        if self.programme is not None and "agenda" not in settings.shares:
            kinds["agents"]["agenda"] = SHARE / (1 - SHARE) * sum(kinds["agents"].values())
        self.schedule = Schedule(counts, kinds, settings.control_share)

    def propose(self, number: int, history: History) -> Proposal:
        """The trial with this number. It is new: no earlier record of the history has its fingerprint.

        Args:
            number: number of the trial in the campaign, from 0.
            history: `History.before(number, ...)`.
        """
        history = history.at(number)
        desk = self.desk(number, history)
        if self._minds is not None:
            self._minds.tick(desk)
            desk = replace(desk, guests=self._minds.guests())
        slot = self.schedule.slot(number)
        first = (offered.NAME,) if slot.arm == "agents" else ()
        for kind in (*first, slot.kind, *FALL_BACK):
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

        def findings() -> Sequence[Finding]:
            found = self._found(number - number % self._settings.analyse_every, history)
            return [*found, *self._said(found, history)]

        return Desk(
            number=number,
            seed=self._seed,
            space=self._space,
            infos=self._infos,
            templates=self._templates,
            settings=self._settings,
            history=history,
            study=study,
            findings=findings,
            referee=self._referee,
            programme=self.programme,
            offers=self._offers,
        )

    def analyse(self, number: int, history: History) -> list[Finding]:
        """What the analysts find in the history before trial `number`, judged by the referee, one per key.

        Findings that are stored but have lost their support come back as refuted.

        Args:
            number: number of the next trial; later records are left out.
            history: what is known.
        """
        seen = history.at(number)
        found = self._analysed(seen)
        known = [r.finding for r in seen.findings if not r.finding.key.startswith(PREFIX)]
        judged = self._referee.judge(found, known + self._said(found, seen), seen)
        # An agenda's verdicts follow its own rule: its trials were planned, not picked.
        return judged + (self.programme.findings(seen) if self.programme else [])

    def _said(self, found: Sequence[Finding], history: History) -> list[Finding]:
        """What LLM minds and agents outside have claimed beyond the analysts, judged on the data of now."""
        claimed = {r.finding.key: r.finding for r in history.findings if r.finding.author.startswith(OUTSIDERS)}
        if self._minds is not None:
            claimed |= {finding.key: finding for finding in self._minds.findings()}
        known = {finding.key for finding in found}
        new = [finding for key, finding in claimed.items() if key not in known]
        return self._referee.judge([], new, history) if new else []

    def _analysed(self, history: History) -> Sequence[Finding]:
        key = _state(history)
        if key not in self._analyses:
            found = [finding for analyst in self._analysts for finding in analyst.analyse(history, self._infos)]
            self._analyses[key] = list({finding.key: finding for finding in found}.values())
        return self._analyses[key]

    def _found(self, milestone: int, history: History) -> Sequence[Finding]:
        """Judged findings of a milestone, built up from milestone to milestone.

        From the trials alone, so that it does not matter when a driver analysed, or whether it was interrupted.
        """
        every = self._settings.analyse_every
        ahead: list[tuple[str, History]] = []
        found: Sequence[Finding] = ()
        for number in range(milestone, 0, -every):  # back to the last milestone that was judged under this very history
            seen = history.at(number)
            key = _state(seen)
            if key in self._judged:
                found = self._judged[key]
                break
            ahead.append((key, seen))
        for key, seen in reversed(ahead):
            found = self._judged[key] = self._referee.judge(self._analysed(seen), found, seen)
        return found

    def score(self, history: History) -> dict[int, Score]:
        """The scores of registered predictions that can be scored now and are not yet, by trial id."""
        scores = ((r.id, judge.score(r, history)) for r in history.records if r.verdict in (None, "open"))
        return {trial: score for trial, score in scores if score is not None and score.verdict != "open"}

    def summarise(self, history: History) -> Summary:
        """A summary of the history and of the findings stored so far; every number in it is a reference.

        LLM minds are waited for only when no trial is left that could run in the meantime.
        """
        remarks = self.programme.remarks() if self.programme else ()
        if self._minds is None:
            return self._scribe.summarise(history, remarks=remarks)
        number = len(history.records)
        idle = all(record.state in FINISHED for record in history.records)
        words = self._minds.text(self.desk(number, history), wait=self._minds.patience if idle else 0.0)
        return self._scribe.summarise(history, words, remarks)

    def close(self) -> None:
        """Let the LLM minds go, if there are any."""
        if self._minds is not None:
            self._minds.close()

    def is_milestone(self, number: int) -> tuple[bool, bool]:
        """Whether the driver should analyse, and summarise, before it proposes trial `number`."""
        settings = self._settings
        return (
            number > 0 and number % settings.analyse_every == 0,
            number > 0 and number % settings.summarise_every == 0,
        )


def _state(history: History) -> str:
    """Digest of what is known of the trials."""
    digest = hashlib.sha256()
    for record in history.records:
        values = hash(tuple(metric.value for metric in record.metrics.values()))
        digest.update(f"{record.number} {record.fingerprint} {record.state} {record.outcome} {values}\n".encode())
    return digest.hexdigest()
