"""Judges stored findings once more, from the stored measurements alone; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose

from swarm.agents.analysis.claims import Claim
from swarm.agents.analysis.engine import AnalysisEngine
from swarm.agents.analysis.judge import judge
from swarm.agents.history import History
from swarm.agents.published_claims.plan import PREFIX, AgendaPlan
from swarm.agents.published_claims.schema import Agenda
from swarm.agents.settings import AgentSettings
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Effect, Finding, FindingRecord, FindingStatus

TOLERANCE = 1e-6
"""Relative difference up to which a recomputed effect is the stored one."""


@dataclass(frozen=True)
class Change:
    """A finding that the measurements do not carry as it is stored; `now` is None when nothing is left of it."""

    record: FindingRecord
    now: Finding | None

    @property
    def fell(self) -> bool:
        """Whether a claim that stood has lost its ground."""
        stood = {"confirmed": 2, "hypothesis": 1, "refuted": 0}
        return self.now is None or stood[self.now.status] < stood[self.record.finding.status]

    @property
    def effect(self) -> Effect | None:
        """The effect that the trials of now give; None when they give none: a finding that fell keeps its old one."""
        if self.now is None or (self.fell and self.now.effect == self.record.finding.effect):
            return None
        return self.now.effect


def recheck(
    history: History, infos: Mapping[str, ModelInfo], agenda: Agenda | None = None
) -> tuple[list[Change], list[FindingRecord]]:
    """The stored findings whose status or effect is not what the trials of now give.

    The history holds all trials of a campaign with its stored findings. Published claims are left out without the
    agenda that it ran with.

    Returns:
        The changes, and the findings that were not judged because they rest on results of an older version.
    """
    plan = AgendaPlan(agenda, infos, _templates(history, infos)) if agenda is not None else None
    engine = AnalysisEngine(list(infos.values()), AgentSettings(), plan=plan)
    after_all = max((record.number for record in history.records), default=-1) + 1
    now = {finding.key: finding for finding in engine.analyse(after_all, history)}
    older = {record.id for record in history.records if record.outdated}
    outdated = [record for record in history.findings if older & set(record.finding.evidence)]
    checked = [
        Change(record, now.get(record.finding.key))
        for record in history.findings
        if record not in outdated and (plan or not record.finding.key.startswith(PREFIX))
    ]
    return [change for change in checked if not _is_same(change.record.finding, change.now)], outdated


def elsewhere(
    findings: Sequence[Finding], history: History, infos: Mapping[str, ModelInfo]
) -> dict[str, FindingStatus]:
    """What another campaign's trials, such as those on another device, say of findings, by key.

    Effects are judged anew within those trials: nothing measured in one campaign is compared with the other. What
    states no comparison has the status that the same pattern has there. Findings that it cannot decide are left out.
    """
    measured = history.measured
    there: dict[str, FindingStatus] = {record.finding.key: record.finding.status for record in history.findings}
    claims = ((finding, Claim.parse(finding.key)) for finding in findings)
    decided = [finding for finding, claim in claims if claim is not None and claim.estimate(measured) is not None]
    keys = {finding.key for finding in findings}
    judged = {finding.key: finding.status for finding in judge([], decided, history, infos)}
    return {key: status for key, status in {**there, **judged}.items() if key in keys}


def _templates(history: History, infos: Mapping[str, ModelInfo]) -> dict[str, TrialSpec]:
    """The 16-bit run of each model, as it was measured."""
    plain = [r.spec for r in history.records if r.arm == "defaults" and r.spec.protocol == "quality"]
    found = {spec.model: spec for spec in plain if spec.kv == KVSpec()}
    return {name: found[name] for name in infos if name in found}


def _is_same(stored: Finding, now: Finding | None) -> bool:
    if now is None or stored.status != now.status or (stored.effect is None) != (now.effect is None):
        return False
    if stored.effect is None or now.effect is None:
        return True
    pairs = [(getattr(stored.effect, name), getattr(now.effect, name)) for name in ("value", "low", "high")]
    return all(isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE**2) for a, b in pairs)
