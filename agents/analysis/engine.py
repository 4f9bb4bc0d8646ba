"""Analyses a campaign: runs the analysts, judges what they find, scores predictions, writes the summary.

Everything is a pure function of the history; what an engine remembers between calls only saves time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from swarm.agents.analysis import base, judge
from swarm.agents.history import History
from swarm.agents.published_claims.plan import PREFIX, AgendaPlan
from swarm.agents.settings import AgentSettings
from swarm.agents.writing import summary
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding, Score, Summary

OUTSIDERS = ("llm:", "mcp:")
"""How those sign whose claims the analysts would not find by themselves."""


class AnalysisEngine:
    """What is known of a campaign's models, worked out from the history.

    Args:
        infos: facts about the models that the campaign runs on, in order.
        settings: how often to analyse, and what counts as a useful result.
        plan: the trials that decide published claims, with their verdicts.
        claimed: what the LLM's roles have claimed so far; with it, answers depend on what an LLM said.
    """

    def __init__(
        self,
        infos: Sequence[ModelInfo],
        settings: AgentSettings,
        *,
        plan: AgendaPlan | None = None,
        claimed: Callable[[], Sequence[Finding]] = tuple,
    ) -> None:
        self.infos = {info.name: info for info in infos}
        self.settings = settings
        self.plan = plan
        self._claimed = claimed
        self._analyses: dict[str, Sequence[Finding]] = {}
        self._judged: dict[str, Sequence[Finding]] = {}

    def is_milestone(self, number: int) -> tuple[bool, bool]:
        """Whether the driver should analyse, and summarise, before it proposes trial `number`."""
        analyse, summarise = (number % n == 0 for n in (self.settings.analyse_every, self.settings.summarise_every))
        return number > 0 and analyse, number > 0 and summarise

    def analyse(self, number: int, history: History) -> list[Finding]:
        """What the analysts find in the history before trial `number`, judged, one per key.

        Findings that are stored but have lost their support come back as refuted.
        """
        seen = history.at(number)
        found = self._analysed(seen)
        known = [r.finding for r in seen.findings if not r.finding.key.startswith(PREFIX)]
        judged = judge.judge(found, known + self._said(found, seen), seen, self.infos)
        # Published claims follow their own rule: their trials were planned, not picked.
        return judged + (self.plan.findings(seen) if self.plan else [])

    def standing(self, number: int, history: History) -> list[Finding]:
        """The judged findings that proposal `number` may build on: those of the last milestone before it.

        They follow from the trials alone, so that it does not matter when a driver analysed, or whether it was
        interrupted. `history` is `History.before(number, ...)`.
        """
        every = self.settings.analyse_every
        ahead: list[tuple[str, History]] = []
        found: Sequence[Finding] = ()
        # Back to the last milestone that was judged under this very history, then forward again.
        for milestone in range(number - number % every, 0, -every):
            seen = history.at(milestone)
            key = _state(seen)
            if key in self._judged:
                found = self._judged[key]
                break
            ahead.append((key, seen))
        for key, seen in reversed(ahead):
            found = self._judged[key] = judge.judge(self._analysed(seen), found, seen, self.infos)
        return [*found, *self._said(found, history)]

    def score(self, history: History) -> dict[int, Score]:
        """The scores of registered predictions that can be scored now and are not yet, by trial id."""
        scores = ((r.id, judge.score(r, history)) for r in history.records if r.verdict in (None, "open"))
        return {trial: score for trial, score in scores if score is not None and score.verdict != "open"}

    def summarise(self, history: History, words: str = "") -> Summary:
        """A summary of the history and of the findings stored so far; every number in it is a reference.

        `words` are what an LLM says about them; they are left out where their references do not hold.
        """
        remarks = self.plan.remarks() if self.plan else ()
        return summary.summarise(history, self.infos, self.settings, words, remarks)

    def _said(self, found: Sequence[Finding], history: History) -> list[Finding]:
        """What LLM roles and agents outside have claimed beyond the analysts, judged on the data of now."""
        claimed = {r.finding.key: r.finding for r in history.findings if r.finding.author.startswith(OUTSIDERS)}
        claimed |= {finding.key: finding for finding in self._claimed()}
        known = {finding.key for finding in found}
        new = [finding for key, finding in claimed.items() if key not in known]
        return judge.judge([], new, history, self.infos) if new else []

    def _analysed(self, history: History) -> Sequence[Finding]:
        key = _state(history)
        if key not in self._analyses:
            self._analyses[key] = base.analyse(history, self.infos)
        return self._analyses[key]


def _state(history: History) -> str:
    """Digest of what is known of the trials."""
    digest = hashlib.sha256()
    for record in history.records:
        values = hash(tuple(metric.value for metric in record.metrics.values()))
        digest.update(f"{record.number} {record.fingerprint} {record.state} {record.outcome} {values}\n".encode())
    return digest.hexdigest()
