"""A recommendation from a store: which model is meant, what the limits come to, and the answer in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from swarm.kernels.errors import SwarmError, UnknownNameError, UsageError
from swarm.orchestrator.console import number
from swarm.orchestrator.views.source import stored_models

if TYPE_CHECKING:
    from swarm.agents.analysis.comparable import AskedModel
    from swarm.agents.analysis.recommendation import CostLimits, IntervalEstimate, Option, Recommendation
    from swarm.experiments.models.base import ModelInfo
    from swarm.memory.store import Store

MOST_TRIALS = 50
"""Trials that can be asked for at once."""


def known_models(store: Store) -> dict[str, ModelInfo]:
    """The models that a store knows, and the bundled ones, by name. Reads no weights."""
    from swarm.experiments.models import registry

    return {**{info.name: info for info in registry.catalogue()}, **stored_models(store)}


def recommendation(
    store: Store,
    model: str,
    *,
    bits: float | None = None,
    memory: float | None = None,
    context: int | None = None,
    tolerance: float | None = None,
    info: ModelInfo | None = None,
    trials: int = 3,
) -> Recommendation:
    """The configuration to use for a model, from all campaigns of a store.

    Args:
        store: what was measured.
        model: its name.
        bits: most bits per value.
        memory: GB (2^30 bytes) for weights, overhead and cache, with a `context`.
        context: tokens that the cache shall hold.
        tolerance: most KLD in nats; the cheapest configuration that stays below it is chosen.
        info: facts about a model that the store does not know and that is not bundled.
        trials: how many trials to name that would decide most.

    Raises:
        UsageError: the limits are not clear, or out of range.
        UnknownNameError: there is no such model.
        NothingToRecommendError: nothing measured lies within the limits.
    """
    from swarm.agents.analysis.comparable import AskedModel, ComparableResults
    from swarm.agents.analysis.recommend import recommend

    known = known_models(store)
    found = info or known.get(model)
    if found is None:
        raise UnknownNameError("model", model, ", ".join(known))
    asked = AskedModel(found.name, found.layers, found.key_bias, found.digest)
    limits = limited(asked, bits, memory, context, tolerance)
    layers = {name: known[name].layers for name in known}
    results = ComparableResults(asked, store.trials.list(), layers)
    return recommend(results, limits, store.findings.list(), trials=trials)


def limited(
    asked: AskedModel, bits: float | None, memory: float | None, context: int | None, tolerance: float | None
) -> CostLimits:
    """The limits as numbers; memory is turned into bytes of cache by what weights and overhead leave.

    Raises:
        UsageError: they are not clear, or out of range, or the weights alone do not fit.
    """
    from pydantic import ValidationError

    from swarm.agents.analysis.recommendation import CostLimits

    if bits is not None and memory is not None:
        raise UsageError("--bits and --memory both limit the cost.", "Give one of them.")
    if (memory is None) != (context is None):
        raise UsageError("--memory and --context belong together.", "Give both: --memory 16 --context 32K.")
    if bits is None and memory is None and tolerance is None:
        raise UsageError("nothing limits the cost.", "Give --bits B, --memory G --context N, or --tolerance X.")
    room, note = (None, "") if memory is None or context is None else _room(asked, memory, context)
    try:
        return CostLimits(bits=bits, cache_bytes=room, context=context, tolerance=tolerance, note=note)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UsageError(f"{first['loc'][0]}={first['input']}: {first['msg']}.", "Correct the value.") from error


def _room(asked: AskedModel, memory: float, context: int) -> tuple[int, str]:
    """Bytes that are left for the cache, and how they came about."""
    from swarm.experiments.sizing import machines, method, models, plan
    from swarm.experiments.sizing.units import size

    try:
        shape = models.find(asked.name)
    except SwarmError as error:
        raise UsageError(
            f"how large the weights of {asked.name} are is not known: {error.problem}", "Give --bits in their place."
        ) from error
    machine = machines.of_memory(memory)
    report = plan.make(shape, [method.parse("none")], machine=machine, contexts=[context])
    room = machine.usable - report.weights.n_bytes - report.overhead_bytes
    weights = f"weights of {size(report.weights.n_bytes)}"
    if report.weights.assumed:
        weights += f" (assumed: {report.weights.bits:g} bits each)"
    note = f"{size(machine.usable)} less {weights} and {size(report.overhead_bytes)} beside them"
    if room <= 0:
        raise UsageError(f"no cache fits into {memory:g} GB: {note}.", "Give more --memory, or a smaller model.")
    return room, note


def range_text(estimate: IntervalEstimate) -> str:
    """An estimate with its 90% interval, in a few characters."""
    if estimate.low is None or estimate.high is None:
        return number(estimate.value, 3)
    return f"{number(estimate.value, 3)} [{number(estimate.low, 3)}, {number(estimate.high, 3)}]"


def cost_text(option: Option) -> str:
    """What a configuration costs, in words."""
    from swarm.experiments.sizing.units import size

    text = f"{option.bits_per_value:.3g} bits per value"
    return text if option.cache_bytes is None else f"{text}, {size(option.cache_bytes)} of cache"


def rival_text(found: Recommendation) -> str:
    """What the runner-up would cost, in words; empty without one."""
    if found.runner_up is None or found.ratio is None:
        return ""
    more = found.runner_up.bits_per_value - found.choice.bits_per_value
    bits = "the same bits" if abs(more) < 0.005 else f"{abs(more):.2g} bits per value {'more' if more > 0 else 'less'}"
    return f"{range_text(found.ratio)} times the KLD at {bits}"


def origin_text(found: Recommendation) -> str:
    """Where the loss comes from, in words."""
    if found.choice.trials:
        numbers = ", ".join(map(str, found.choice.trials))
        return f"measured in trial{'s' if len(found.choice.trials) > 1 else ''} {numbers}; {found.basis}"
    return found.basis if found.choice.loss.value == 0 else f"predicted from other models; {found.basis}"
