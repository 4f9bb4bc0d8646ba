"""Chooses one configuration of the cache for a model within a limit, and says what it is expected to lose.

A pure function of the measured trials: the same store gives the same answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import exp, log, sqrt
from statistics import fmean, stdev

from swarm.agents.analysis import decisive
from swarm.agents.analysis.comparable import LEAST_RESULTS, ComparableResults
from swarm.agents.analysis.posterior import Posterior
from swarm.agents.analysis.recommendation import (
    CostLimits,
    Decisive,
    IntervalEstimate,
    Measure,
    NothingToRecommendError,
    Option,
    Recommendation,
)
from swarm.agents.analysis.speed import formats
from swarm.agents.analysis.spreads import FLOOR
from swarm.agents.analysis.statistics import Estimate
from swarm.experiments.sizing.method import cache_bytes
from swarm.experiments.spec import Device
from swarm.kernels.spec import KVSpec
from swarm.kernels.wording import in_words
from swarm.memory.records import FindingRecord, TrialRecord

CONFIDENCE = 0.90
"""Of the intervals that are stated."""
DECISIVE = 3
"""Trials that are named as those that would decide most."""
TAILS = ("kld_p99.9", "kld_p999", "kld_p99", "kld_max")
"""How far the worst tokens drift: the first of these that was measured is told."""
ELSEWHERE = {"context": ("kld",), "retrieval": ("kept", "lost_p", "delta_nll"), "generation": ()}
"""Protocols beside `quality` that say whether a configuration can be used, and which of their metrics to tell; all of
them where none is named."""
MOST_FINDINGS = 3
"""Findings that are named beside a recommendation."""


def recommend(
    known: ComparableResults, limits: CostLimits, findings: Iterable[FindingRecord] = (), *, trials: int = DECISIVE
) -> Recommendation:
    """The configuration with the smallest expected loss within the limits, or the cheapest within a tolerance.

    Args:
        known: the model in question and what was measured.
        limits: what it may cost and lose.
        findings: what was found so far.
        trials: how many trials to name that would decide most.

    Raises:
        NothingToRecommendError: too little was measured, or nothing that was measured lies within the limits.
    """
    subject = known.subject
    cost, most = _cost(known, limits)
    sixteen = _sixteen_bit(known, limits, most)
    if sixteen is not None:
        return sixteen
    if len(known.results) < LEAST_RESULTS:
        raise NothingToRecommendError(
            f"only {len(known.results)} quantized configurations were measured so far.",
            f"Run `swarm launch --models {subject.name}` first, or on models like it.",
        )
    prices = known.pool(cost, most)
    if not prices:
        raise _too_dear(known, limits, cost)
    pool = list(prices)
    posterior = known.levels.at(subject.name, pool)
    order = _ranking(pool, prices, posterior, limits)
    place = order[0]
    options = [_option(known, limits, pool[i], posterior.interval(i, CONFIDENCE)) for i in order[:2]]
    ratio = _interval(posterior.ratio(order[1], place, CONFIDENCE)) if len(order) > 1 else None
    wanted = decisive.trials(known, prices, posterior, limits.tolerance, place, max(0, trials))
    own = [r for r in known.records if r.spec.model == subject.name and not (r.outdated or r.spec.edits)]
    of_choice = [r for r in own if r.spec.kv == pool[place] and r.state == "complete"]
    times = _times(own, pool[place])
    return Recommendation(
        model=subject.name,
        limits=limits,
        choice=options[0],
        measures=(*_tail(known, pool[place], posterior, place), *_elsewhere(of_choice)),
        times=times,
        runner_up=options[1] if len(options) > 1 else None,
        ratio=ratio,
        untested=(*_untested(known, of_choice), *(() if times else ("how fast kernels read it",))),
        decisive=tuple(Decisive(configuration=spec.kv.short_label, spec=spec, why=why) for spec, why in wanted),
        findings=_supporting(findings, subject.name, options[0].trials),
        basis=_basis(known),
    )


def _cost(known: ComparableResults, limits: CostLimits) -> tuple[Callable[[KVSpec], float], float]:
    """What a configuration costs in the unit of the limits, and the limit."""
    if limits.cache_bytes is not None and limits.context is not None:
        layers, context = known.subject.layers, limits.context
        return lambda kv: float(cache_bytes(layers, kv, context)), float(limits.cache_bytes)
    return known.bits, 32.0 if limits.bits is None else limits.bits


def _sixteen_bit(known: ComparableResults, limits: CostLimits, most: float) -> Recommendation | None:
    """16 bit, where there is room for it and nobody asked for something cheaper."""
    plain = KVSpec()
    cost, _ = _cost(known, limits)
    price = 16.0 if limits.cache_bytes is None else cost(plain)
    if limits.tolerance is not None or price > most:
        return None
    exact = IntervalEstimate(value=0.0, low=0.0, high=0.0)
    size = None if limits.context is None else cache_bytes(known.subject.layers, plain, limits.context)
    words = in_words(plain)
    choice = Option(configuration="16 bit", words=words, kv=plain, bits_per_value=16.0, cache_bytes=size, loss=exact)
    return Recommendation(model=known.subject.name, limits=limits, choice=choice, basis="16 bit fits: nothing is lost.")


def _ranking(
    pool: Sequence[KVSpec], prices: Mapping[KVSpec, float], posterior: Posterior, limits: CostLimits
) -> list[int]:
    """Places of the configurations, the best first.

    Raises:
        NothingToRecommendError: none stays below the tolerance.
    """
    expected = posterior.expected
    if limits.tolerance is None:
        return sorted(range(len(pool)), key=lambda i: (expected[i], prices[pool[i]], pool[i].label))
    tops = [posterior.interval(i, CONFIDENCE)[2] for i in range(len(pool))]
    safe = [i for i, top in enumerate(tops) if top <= limits.tolerance]
    if not safe:
        best = min(range(len(pool)), key=lambda i: (tops[i], pool[i].label))
        raise NothingToRecommendError(
            f"no configuration is known to lose less than {limits.tolerance:g} nats: of [{pool[best].short_label}] the "
            f"upper limit is {tops[best]:.3g}.",
            "Allow a larger --tolerance or more bits, or measure more: `swarm launch`.",
        )
    return sorted(safe, key=lambda i: (prices[pool[i]], expected[i], pool[i].label))


def _too_dear(known: ComparableResults, limits: CostLimits, cost: Callable[[KVSpec], float]) -> NothingToRecommendError:
    prices = known.pool(cost, float("inf"))
    if not prices:
        return NothingToRecommendError(
            f"none of the measured configurations fits the layers of {known.subject.name}.",
            f"Run `swarm launch --models {known.subject.name}`.",
        )
    cheapest = min(prices, key=lambda kv: (prices[kv], kv.label))
    if limits.cache_bytes is not None:
        need = f"{prices[cheapest] / 2**30:.3g} GiB, and {limits.cache_bytes / 2**30:.3g} GiB are left for the cache"
        return NothingToRecommendError(
            f"no measured configuration fits: the smallest, [{cheapest.short_label}], takes {need}.",
            "Give more --memory or a shorter --context.",
        )
    return NothingToRecommendError(
        f"no measured configuration costs at most {limits.bits:g} bits per value: the cheapest, "
        f"[{cheapest.short_label}], costs {prices[cheapest]:.3g}.",
        f"Allow that many --bits, or run `swarm launch --models {known.subject.name}`.",
    )


def _interval(found: tuple[float, float, float]) -> IntervalEstimate:
    value, low, high = found
    return IntervalEstimate(value=value, low=low, high=high)


def _option(known: ComparableResults, limits: CostLimits, kv: KVSpec, loss: tuple[float, float, float]) -> Option:
    size = None if limits.context is None else cache_bytes(known.subject.layers, kv, limits.context)
    own = known.own.get(kv)
    return Option(
        configuration=kv.short_label,
        words=in_words(kv),
        kv=kv,
        bits_per_value=known.bits(kv),
        cache_bytes=size,
        loss=_interval(loss),
        trials=own.ids if own is not None else (),
    )


def _tail(known: ComparableResults, kv: KVSpec, posterior: Posterior, place: int) -> list[Measure]:
    """The worst tokens: the loss, times how much worse they are in the model's other results, which vary in it."""
    for name in TAILS:
        ratios = [
            log(record.metrics[name].value / record.metrics["kld"].value)
            for result in known.own.values()
            for record in result.records[:1]
            if name in record.metrics and min(record.metrics[name].value, record.metrics["kld"].value) > exp(FLOOR)
        ]
        if len(ratios) >= LEAST_RESULTS:
            middle = float(posterior.mean[place]) + posterior.spread.smear + fmean(ratios)
            variance = float(posterior.variance[place]) + stdev(ratios) ** 2 * (1 + 1 / len(ratios))
            estimate = Estimate(middle, sqrt(variance), float(posterior.df[place]), len(ratios))
            low, high = estimate.interval(CONFIDENCE)
            value = IntervalEstimate(value=exp(middle), low=exp(low), high=exp(high))
            ids = known.own[kv].ids if kv in known.own else ()
            return [Measure(name=name, value=value, unit="nat", trials=ids)]
    return []


def _elsewhere(records: Sequence[TrialRecord]) -> list[Measure]:
    """What trials of other protocols, rungs and contexts measured of the choice; intervals over their own windows."""
    found: dict[str, Measure] = {}
    for record in records:
        spec = record.spec
        names = ("kld",) if spec.protocol == "quality" and spec.rung else ELSEWHERE.get(spec.protocol)
        if names is None:
            continue
        for name, metric in record.metrics.items():
            told = name in names or (not names and metric.stderr is not None) or name.startswith("kld_at_")
            if not told or metric.timed:
                continue
            how = f"{spec.protocol}, rung {spec.rung}" if spec.rung else spec.protocol
            label = f"{name} ({how}, {spec.context:,} tokens)"
            value = IntervalEstimate(value=metric.value)
            if metric.stderr is not None and metric.n > 1:
                estimate = Estimate(metric.value, metric.stderr, metric.n - 1, metric.n)
                value = _interval((metric.value, *estimate.interval(CONFIDENCE)))
            found[label] = Measure(name=label, value=value, unit=metric.unit, trials=(record.id,))
    return list(found.values())


def _times(records: Sequence[TrialRecord], kv: KVSpec) -> tuple[Measure, ...]:
    """What kernels took, of the newest trial at each context and device."""
    alike = [r for r in records if r.state == "complete" and formats(r.spec.kv) == formats(kv)]
    found = {
        (name, record.spec.context, record.spec.device): Measure(
            name=f"{name} ({record.spec.device})" if "_at_" in name else f"{name} ({record.spec.context:,} tokens)",
            value=IntervalEstimate(value=metric.value),
            unit=metric.unit,
            trials=(record.id,),
        )
        for record in alike
        for name, metric in record.metrics.items()
        if metric.unit == "us"
    }
    return tuple(found.values())


def _untested(known: ComparableResults, records: Sequence[TrialRecord]) -> tuple[str, ...]:
    """What no trial of the choice on this model says anything about."""
    template = known.template
    told = {(r.spec.protocol, r.spec.rung) for r in records}
    missing = []
    if not any(protocol == "quality" for protocol, _ in told):
        missing.append(f"this configuration on {known.subject.name} itself")
    longest = max((r.spec.context for r in records if r.spec.protocol in ("quality", *ELSEWHERE)), default=0)
    missing.append(f"contexts above {longest or template.context:,} tokens")
    if ("quality", 1) not in told:
        missing.append("a prefill over the quantized cache (rung 1)")
    missing += [f"protocol {name}" for name in ELSEWHERE if not any(protocol == name for protocol, _ in told)]
    missing.append("texts other than that of the trials")
    devices: set[Device] = {r.spec.device for r in records} or {template.device}
    missing.append(f"devices other than {' and '.join(sorted(devices))}")
    return tuple(missing)


def _supporting(findings: Iterable[FindingRecord], model: str, trials: Sequence[int]) -> tuple[int, ...]:
    """Confirmed findings about the model that rest on trials of the choice, the newest first."""
    found = [
        record.id
        for record in findings
        if record.finding.status == "confirmed"
        and model in record.finding.models
        and set(trials) & set(record.finding.evidence)
    ]
    return tuple(sorted(found, reverse=True)[:MOST_FINDINGS])


def _basis(known: ComparableResults) -> str:
    own = len(known.own)
    others = Counter(r.model for r in known.results if r.model != known.subject.name)
    said = ", ".join(f"{count} on {name}" for name, count in sorted(others.items()))
    text = f"{own} configurations measured on {known.subject.name}" + (f"; {said}" if said else "")
    return f"{text}; {known.template.context:,} tokens"
