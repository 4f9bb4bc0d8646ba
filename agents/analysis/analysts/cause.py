"""Causes: effects that go when what may cause them is edited out of the model, and effects that stay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from swarm.agents.analysis import causes
from swarm.agents.analysis.base import Analyst
from swarm.agents.analysis.claims import by_token
from swarm.agents.history import History
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding

MAX_FINDINGS = 4
"""Findings per model and suspect, the clearest effects first; each configuration leads one."""


class CauseAnalyst(Analyst):
    """States for each effect that was measured with and without a suspect that the suspect is its cause.

    Whether it is, the judge finds out: more than half of the effect (on the logarithmic scale) has to go with it.
    """

    name = "cause"

    def analyse(self, history: History, infos: Mapping[str, ModelInfo]) -> list[Finding]:
        """One claim per effect and suspect."""
        return [finding for model in infos for finding in self._of_model(model, history)]

    def _of_model(self, model: str, history: History) -> Iterator[Finding]:
        measured = by_token({**history.results(), **history.edited()})
        tested = causes.tested(model, history.results(), history.edited())
        led: dict[str, set[str]] = {}
        for suspect, claim, _ in sorted(tested, key=lambda entry: (entry[2].p, entry[2].mean, entry[1].key)):
            taken = led.setdefault(suspect.edit, set())
            size = claim.evaluate(measured)
            if size is None or taken.intersection(claim.configurations) or len(taken) >= 2 * MAX_FINDINGS:
                continue
            taken.update(claim.configurations[:2])
            better, worse = (measured[place] for place in claim.needs[:2])
            text = f"On {model} {suspect.words} are why [{better.label}] beats [{worse.label}]: "
            text += f"without them (weights edited: {suspect.edit}) more than half of the advantage is gone."
            yield claim.finding(measured, text, size, self.name)
