"""Judges stored findings once more, from the stored measurements alone; changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.agents.analysis.base import analysts
from swarm.agents.analysis.judge import Judge
from swarm.agents.history import History
from swarm.agents.published_claims.plan import PREFIX, AgendaPlan
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Effect, Finding, FindingRecord

if TYPE_CHECKING:
    from swarm.agents.published_claims.schema import Agenda
    from swarm.experiments.models.base import ModelInfo

TOLERANCE = 1e-6


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


def recheck(history: History, infos: Mapping[str, ModelInfo], agenda: Agenda | None = None) -> list[Change]:
    """The stored findings whose status or effect is not what the trials of now give.

    Args:
        history: all trials of a campaign with its stored findings; nothing hidden.
        infos: facts about its models by name.
        agenda: the agenda that it ran with.
    """
    kinds = [kind() for kind in analysts().values()]
    known = [record.finding for record in history.findings if not record.finding.key.startswith(PREFIX)]
    found = [finding for kind in kinds for finding in kind.analyse(history, infos)]
    now = {finding.key: finding for finding in Judge(kinds, infos).judge(found, known, history)}
    if agenda is not None:
        programme = AgendaPlan(agenda, infos, _templates(history, infos))
        now |= {finding.key: finding for finding in programme.findings(history)}
    checked = ((record, now.get(record.finding.key)) for record in _checkable(history, agenda))
    return [Change(record, finding) for record, finding in checked if not _is_same(record.finding, finding)]


def _checkable(history: History, agenda: Agenda | None) -> list[FindingRecord]:
    """All but claims of an agenda that is not known, and what rests on trials of older versions."""
    outdated = {record.id for record in history.records if record.outdated}
    found = (record for record in history.findings if not outdated & set(record.finding.evidence))
    return [record for record in found if agenda is not None or not record.finding.key.startswith(PREFIX)]


def _templates(history: History, infos: Mapping[str, ModelInfo]) -> dict[str, TrialSpec]:
    """The 16-bit run of each model, as it was measured."""
    plain = (
        r for r in history.records if r.spec.kv == KVSpec() and r.spec.protocol == "quality" and r.arm == "defaults"
    )
    found = {record.spec.model: record.spec for record in plain}
    return {name: found[name] for name in infos if name in found}


def _is_same(stored: Finding, now: Finding | None) -> bool:
    if now is None or stored.status != now.status:
        return False
    return _numbers(stored.effect) == _numbers(now.effect) or _are_close(stored.effect, now.effect)


def _numbers(effect: Effect | None) -> tuple[float, ...]:
    return () if effect is None else (effect.value, effect.low, effect.high)


def _are_close(a: Effect | None, b: Effect | None) -> bool:
    pairs = zip(_numbers(a), _numbers(b), strict=False)
    return len(_numbers(a)) == len(_numbers(b)) and all(
        abs(x - y) <= TOLERANCE * max(abs(x), abs(y), TOLERANCE) for x, y in pairs
    )
