"""What may cause an effect on a model, from what captures of its keys and values show, and the edit that removes it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import log
from statistics import fmean

from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, token
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.results import Results, compare, config_key
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.agents.history import History
from swarm.experiments import edits
from swarm.experiments.spec import TrialSpec
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import KVSpec

MIN_OUTLIERS = 3.0
"""Largest channel over median channel from which outlier channels may be a cause."""


@dataclass(frozen=True)
class Suspect:
    """A possible cause: outlier channels on one side.

    `series` is what attention trials tell about it, `edit` removes it and leaves the 16-bit function as it is.
    """

    side: Side
    words: str
    series: str
    edit: str


SUSPECTS = (
    Suspect("key", "outlier channels of the keys", "layer_key_outliers", "keys even"),
    Suspect("value", "outlier channels of the values", "layer_value_outliers", "values even"),
)


def seen(history: History, model: str) -> list[tuple[Suspect, float, int]]:
    """What captures show on a model: suspects with their size (geometric mean over layers) and a trial that shows it.

    The largest first; what is smaller than `MIN_OUTLIERS` is left out, as are trials of single layers.
    """
    shown = [r for r in history.select(model=model, protocol="attention") if r.spec.layers is None]
    found = []
    for suspect in SUSPECTS:
        for record in shown:
            series = [value for value in record.arrays.get(suspect.series, ()) if value > 0]
            if series:
                size = bounded_exp(fmean(map(log, series)))
                found += [(suspect, size, record.id)] if size >= MIN_OUTLIERS else []
                break
    return sorted(found, key=lambda entry: -entry[1])


def may_explain(suspect: Suspect, a: KVSpec, b: KVSpec) -> bool:
    """Whether two configurations differ in how they hold the side that a suspect is about."""
    return (a.key != b.key) if suspect.side == "key" else (a.value != b.value)


def edited(spec: TrialSpec, suspect: Suspect) -> TrialSpec:
    """A trial on the model without the suspect."""
    return spec.model_copy(update={"edits": edits.read(suspect.edit)})


def tested(model: str, plain: Results, without: Results) -> Iterator[tuple[Suspect, Claim, Estimate]]:
    """Effects on a model that were measured with a suspect and without it, as claims that it is their cause.

    Args:
        model: its name.
        plain: results of the model as it is, by model and key.
        without: results under edits, likewise.

    Yields:
        The suspect, the claim, and the effect on the model as it is: ln(better / worse), clearly below 0.
    """
    for suspect in SUSPECTS:
        removed = edits.read(suspect.edit)
        base = {
            config_key(result.spec.model_copy(update={"edits": ()})): result
            for (name, _), result in without.items()
            if name == model and result.spec.edits == removed
        }
        for better in base:
            for worse in base:
                a, b = plain.get((model, better)), plain.get((model, worse))
                effect = compare(a, b) if a is not None and b is not None else None
                if a is None or b is None or effect is None or not may_explain(suspect, a.spec.kv, b.spec.kv):
                    continue
                if costs_the_same(a, b) and effect.mean < -NEGLIGIBLE and effect.interval()[1] < 0:
                    keys = (better, worse, base[better].key, base[worse].key)
                    yield suspect, Claim("cause", "kld", keys, (token(model),)), effect
