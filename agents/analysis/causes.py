"""What may cause errors on a model, from what captures of its attention show, and how trials do without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import log
from statistics import fmean, median

from swarm.agents.analysis import moved_bits
from swarm.agents.analysis.claims import NEGLIGIBLE, Claim, token
from swarm.agents.analysis.pairs import costs_the_same
from swarm.agents.analysis.removals import ChangedCache, EditedWeights, Layers, MovedBit, Removal, is_simple
from swarm.agents.analysis.results import Results, compare, config_key
from swarm.agents.analysis.statistics import Estimate, bounded_exp
from swarm.agents.history import History
from swarm.experiments.edits import WeightEdit
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.spec import TrialSpec
from swarm.kernels.quantizers.base import Side
from swarm.kernels.spec import KVSpec, ranges

DIFFERENT = log(1.03)
"""Logarithmic difference from another model, or another layer, that is worth a look."""
SPREADS = 4.0
"""A layer stands out when it is so many robust standard deviations (from the median absolute one) above the others."""
MAX_STANDING_OUT = 0.34
"""Share of the layers that can stand out; more of them are what is usual."""


@dataclass(frozen=True)
class Suspect:
    """Something that may cause errors.

    Attributes:
        name: what it is, in a few words.
        words: what it is, as a sentence says it.
        side: the side whose errors it may cause; None for both.
        series: what attention trials tell about it, per layer.
        least: its typical size in all layers from which it is suspected there.
        removal: how trials do without it.
        concerns: the models that can have it.
    """

    name: str
    words: str
    side: Side | None
    series: str
    least: float
    removal: Removal
    concerns: Callable[[ModelInfo], bool] = lambda _: True


SUSPECTS = (
    Suspect(
        "outlier channels of keys",
        "channels that are large in keys and small in queries",
        "key",
        "layer_key_imbalance",
        1.2,
        EditedWeights(WeightEdit(part="keys", change="balanced")),
    ),
    Suspect(
        "outlier channels of values",
        "outlier channels of the values",
        "value",
        "layer_value_unevenness",
        1.2,
        EditedWeights(WeightEdit(part="values", change="even")),
    ),
    Suspect(
        "attention sinks",
        "first tokens that attention rests on",
        None,
        "layer_sink_mass",
        0.1,
        ChangedCache({"sink_tokens": 4}),
    ),
    Suspect(
        "key bias",
        "biases of the keys",
        "key",
        "layer_key_outliers",
        3.0,
        ChangedCache({"key_bias": "subtract"}),
        concerns=lambda info: info.key_bias,
    ),
)
"""What is tested, the likeliest first."""
LARGE_G = Suspect(
    "large G",
    "large products of queries and keys (G)",
    "key",
    "layer_g",
    0.0,
    MovedBit(),
)
"""What may make errors of keys count more in some layers than in others."""


@dataclass(frozen=True)
class Suspicion:
    """A suspect in some layers of a model (None: in all), and why.

    Attributes:
        model: where.
        size: of the suspect there, from its series.
        excess: by which logarithm that is more than elsewhere.
        shown: the trial that shows it.
        against: the model that has less of it; empty when other layers have.
        least: for `LARGE_G` as many layers with little of it.
    """

    suspect: Suspect
    model: str
    layers: Layers
    size: float
    excess: float
    shown: int
    against: str = ""
    least: tuple[int, ...] = ()

    @property
    def words(self) -> str:
        """The suspect and where."""
        return self.suspect.words + place(self.layers)


def place(layers: Layers) -> str:
    """Layers in words, empty for all."""
    return "" if layers is None else f" in layer{'s' if len(layers) > 1 else ''} {ranges(layers)}"


@dataclass(frozen=True)
class Profile:
    """A series of one model: its logarithm by layer, and the trial that tells it."""

    logs: Mapping[int, float]
    trial: int

    @property
    def level(self) -> float:
        """The typical logarithm."""
        return fmean(self.logs.values())


def profile(
    history: History, info: ModelInfo, series: str, wanted: Callable[[KVSpec], bool] = lambda _: True
) -> Profile | None:
    """A series over all layers of a model, from its first attention trial that tells it; None while there is none.

    Args:
        history: what is known.
        info: the model.
        series: name of the array.
        wanted: of which caches, where it depends on them.
    """
    for record in history.select(model=info.name, protocol="attention"):
        values = record.arrays.get(series, ())
        if record.spec.layers is None and wanted(record.spec.kv) and len(values) == len(info.shown_layers):
            logs = {layer: log(v) for layer, v in zip(info.shown_layers, values, strict=True) if v > 0}
            return Profile(logs, record.id) if logs else None
    return None


def suspicions(history: History, infos: Mapping[str, ModelInfo], model: str) -> list[Suspicion]:
    """What captures show on a model, in the order in which it is tested.

    First where it has more than another model that can have it, layer by layer where both have as many; then what is
    large in all layers, and how much layers differ in G; then what stands out among the model's own layers. In each the
    largest first.
    """
    found: list[tuple[int, Suspicion]] = [(1, one) for one in _apart_in_g(history, infos[model])]
    for suspect in SUSPECTS:
        own = profile(history, infos[model], suspect.series) if suspect.concerns(infos[model]) else None
        if own is None:
            continue
        for other in infos.values():
            can_have_it = other.name != model and suspect.concerns(other)
            theirs = profile(history, other, suspect.series) if can_have_it else None
            if theirs is not None and theirs.logs.keys() != own.logs.keys() and own.level - theirs.level > DIFFERENT:
                more = own.level - theirs.level
                found.append((0, Suspicion(suspect, model, None, bounded_exp(own.level), more, own.trial, other.name)))
            elif theirs is not None and theirs.logs.keys() == own.logs.keys():
                excess = {layer: own.logs[layer] - theirs.logs[layer] for layer in own.logs}
                found += [(0, one) for one in _standing_out(suspect, model, own, excess, other.name)]
        size = bounded_exp(own.level)
        if size >= suspect.least:
            found.append((1, Suspicion(suspect, model, None, size, own.level - log(suspect.least), own.trial)))
        if isinstance(suspect.removal, EditedWeights):
            middle = median(own.logs.values())
            apart = {layer: value - middle for layer, value in own.logs.items()}
            found += [(2, one) for one in _standing_out(suspect, model, own, apart) if one.layers is not None]
    ordered = sorted(found, key=lambda entry: (entry[0], -entry[1].excess))
    kept: dict[tuple[str, Layers], Suspicion] = {}
    for _, one in ordered:
        kept.setdefault((one.suspect.series, one.layers), one)
    return list(kept.values())


def _apart_in_g(history: History, info: ModelInfo) -> Iterator[Suspicion]:
    """The layers where G of the plain 4-bit cache is largest, beside as many where it is smallest."""
    own = profile(history, info, LARGE_G.series, is_simple)
    most, least = moved_bits.layers_apart(own.logs) if own is not None else ((), ())
    if own is not None and most:
        high, low = (fmean(own.logs[layer] for layer in layers) for layers in (most, least))
        yield Suspicion(LARGE_G, info.name, most, bounded_exp(high), high - low, own.trial, least=least)


def _standing_out(
    suspect: Suspect, model: str, own: Profile, excess: Mapping[int, float], against: str = ""
) -> Iterator[Suspicion]:
    """All layers when their middle one has an excess, and the few layers that have more than the middle one."""
    middle = median(excess.values())
    spread = 1.4826 * median(abs(value - middle) for value in excess.values())
    if middle > DIFFERENT:
        yield Suspicion(suspect, model, None, bounded_exp(own.level), middle, own.trial, against)
    limit = max(DIFFERENT, SPREADS * spread)
    layers = tuple(sorted(layer for layer, value in excess.items() if value - middle > limit))
    few = 0 < len(layers) <= MAX_STANDING_OUT * len(excess)
    if few and isinstance(suspect.removal, EditedWeights):
        size = bounded_exp(fmean(own.logs[layer] for layer in layers))
        more = fmean(excess[layer] for layer in layers) - max(middle, 0.0)
        yield Suspicion(suspect, model, layers, size, more, own.trial, against)


def trials(suspicion: Suspicion, template: TrialSpec, kv: KVSpec) -> tuple[TrialSpec, TrialSpec]:
    """What tests a suspicion: a trial without the suspect, and the same with it.

    Only the side that it is about and the layers where it is are quantized, so that other errors do not cover it.

    Args:
        suspicion: what is tested.
        template: a trial on the model.
        kv: the cache whose errors are looked at.
    """
    side = suspicion.suspect.side
    alone = kv if side is None else KVSpec.model_validate({side: getattr(kv, side)})
    spec = template.model_copy(update={"kv": alone})
    return suspicion.suspect.removal.pair(spec, suspicion.layers, suspicion.least)


def interventions(model: str, plain: Results, without: Results) -> Iterator[tuple[Suspect, Layers, Claim]]:
    """What was measured on a model with a suspect and without it, as claims that errors are smaller without.

    Args:
        model: its name.
        plain: results of the model as it is, by model and key.
        without: results under edits, likewise.
    """
    for (name, key), result in [*without.items(), *plain.items()]:
        for suspect in (*SUSPECTS, LARGE_G) if name == model and not result.spec.rung else ():
            base = suspect.removal.base(result.spec)
            known = plain.get((model, config_key(base))) if base is not None else None
            if known is not None and costs_the_same(known.bits, result.bits):
                yield (
                    suspect,
                    suspect.removal.layers(result.spec),
                    Claim("intervention", "kld", (key, known.key), (token(model),)),
                )


def may_explain(suspect: Suspect, a: KVSpec, b: KVSpec) -> bool:
    """Whether two configurations differ in how they hold the side that a suspect is about."""
    sides: Sequence[Side] = ("key", "value") if suspect.side is None else (suspect.side,)
    return any(getattr(a, side) != getattr(b, side) for side in sides)


def explained(model: str, plain: Results, without: Results) -> Iterator[tuple[Suspect, Claim, Estimate]]:
    """Effects on a model that were measured with a suspect and without it, as claims that it is their cause.

    Args:
        model: its name.
        plain: results of the model as it is, by model and key.
        without: results under edits, likewise.

    Yields:
        The suspect, the claim, and the effect on the model as it is: ln(better / worse), clearly below 0.
    """
    for suspect in SUSPECTS:
        if not isinstance(suspect.removal, EditedWeights):
            continue
        removed = suspect.removal.edits()
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
                if costs_the_same(a.bits, b.bits) and is_worth_it(effect):
                    keys = (better, worse, base[better].key, base[worse].key)
                    yield suspect, Claim("cause", "kld", keys, (token(model),)), effect


def is_worth_it(effect: Estimate) -> bool:
    """Whether a logarithmic effect is below 0 beyond doubt, and more than negligible."""
    return effect.mean < -NEGLIGIBLE and effect.interval()[1] < 0
