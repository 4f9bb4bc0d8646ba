"""What is measured at one context length: a fresh prompt, one that shares its prefix, and several clients at once."""

from __future__ import annotations

import math
import platform
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from itertools import chain

from swarm.experiments.engines.probe.endpoint import (
    Endpoint,
    Exchange,
    ProbeError,
    TooLongError,
    insist,
)
from swarm.experiments.engines.probe.prompts import PromptMaker
from swarm.experiments.environment import code_version
from swarm.experiments.spec import Environment, Measurement, Metric, TrialSpec
from swarm.kernels.spec import FrozenModel

CONTEXTS = tuple(2048 << doubling for doubling in range(7))
# An engine that reads less than this share of a prompt has cut it.
WHOLE = 0.8
"""Share of the prompt tokens asked for that an engine has to read for the prompt to count as not cut."""
UNCOUNTED = "; the engine counts no prompt tokens: they are estimated from the length of the text"
Progress = Callable[[str], None]


class ProbeSettings(FrozenModel):
    """What to measure: contexts in tokens, tokens generated per request, repetitions, clients at once (1: no test)."""

    contexts: tuple[int, ...] = CONTEXTS
    max_tokens: int = 64
    repeats: int = 3
    clients: int = 2


class Probed(FrozenModel):
    """The result at one context: the experiment and its measurement, or why the engine refused it."""

    spec: TrialSpec
    measurement: Measurement | None = None
    refusal: str = ""


def run(endpoint: Endpoint, settings: ProbeSettings, text: str, progress: Progress) -> Iterator[Probed]:
    """Measure an endpoint at each context, shortest first; stops at the first that it refuses or cuts.

    Args:
        endpoint: the engine.
        settings: what to measure.
        text: what prompts are cut from.
        progress: told in words what happens.

    Raises:
        ProbeError: the endpoint does not answer any more.
    """
    progress(f"{endpoint.engine.title} at {endpoint.name}, model {endpoint.model}: first requests")
    maker = PromptMaker.measured(endpoint, text)
    for context in sorted(set(settings.contexts)):
        spec = TrialSpec(model=endpoint.model, protocol="probe", context=context)
        try:
            yield Probed(spec=spec, measurement=at_context(endpoint, maker, context, settings, progress))
        except TooLongError as error:
            yield Probed(spec=spec, refusal=str(error))
            return


def at_context(
    endpoint: Endpoint, maker: PromptMaker, context: int, settings: ProbeSettings, progress: Progress = lambda _: None
) -> Measurement:
    """Measure an endpoint at one context, whichever the settings name.

    Raises:
        TooLongError: the engine refuses the prompt, or cuts it.
        ProbeError: the endpoint does not answer any more.
    """
    prompt_tokens = max(1, context - settings.max_tokens)
    fresh: list[Exchange] = []
    shared: list[Exchange] = []
    together: list[list[Exchange]] = []
    for repeat in range(settings.repeats):
        progress(f"{context} tokens: run {repeat + 1} of {settings.repeats}")
        cold, warm, *group = insist(lambda: _asked(endpoint, maker, prompt_tokens, settings))
        fresh.append(cold)
        shared.append(warm)
        together.extend([group] if group else [])
    return measured(endpoint, settings, fresh, shared, together, counted=maker.counted)


def measured(
    endpoint: Endpoint,
    settings: ProbeSettings,
    fresh: Sequence[Exchange],
    shared: Sequence[Exchange] = (),
    together: Sequence[Sequence[Exchange]] = (),
    *,
    counted: bool = True,
) -> Measurement:
    """What exchanges say of an engine.

    Args:
        endpoint: the engine.
        settings: what was asked for.
        fresh: answers to prompts that the engine had not seen.
        shared: as many answers to prompts that began as those did; none leaves reuse out.
        together: answers of several clients at once.
        counted: whether the engine counts prompt tokens.
    """
    told = endpoint.engine.told(endpoint.host, endpoint.model)
    memory = (Metric.of(f"memory_{kind}", float(size), "bytes") for kind, size in sorted(told.memory.items()))
    alone = [*_alone(fresh), *(_shared(fresh, shared) if shared else ()), *_together(fresh, together)]
    return Measurement(
        metrics=(*alone, *memory),
        arrays={
            "run_ttft": tuple(exchange.first for exchange in fresh),
            "run_shared_ttft": tuple(exchange.first for exchange in shared),
            "run_decode_rate": tuple(exchange.decode_rate or 0.0 for exchange in (*fresh, *shared)),
            "token_gaps": _gaps(fresh),
        },
        notes=_notes(endpoint, settings) + ("" if counted else UNCOUNTED),
        environment=_environment(endpoint, told.version),
        seconds={"total": sum(exchange.arrivals[-1] for exchange in (*fresh, *shared, *chain(*together)))},
    )


def _asked(endpoint: Endpoint, maker: PromptMaker, prompt_tokens: int, settings: ProbeSettings) -> list[Exchange]:
    """A fresh prompt, one that shares its prefix, and several clients at once if that is to be measured."""
    prefix = maker.prefix(prompt_tokens)
    fresh = ask_whole(endpoint, prefix + maker.question(0), prompt_tokens, settings.max_tokens)
    shared = _counted(endpoint.ask(prefix + maker.question(1), settings.max_tokens), prompt_tokens)
    if settings.clients < 2:
        return [fresh, shared]
    prompts = [maker.prefix(prompt_tokens) + maker.question(2) for _ in range(settings.clients)]
    return [fresh, shared, *at_once(endpoint, prompts, settings.max_tokens)]


def ask_whole(endpoint: Endpoint, prompt: str, prompt_tokens: int, max_tokens: int) -> Exchange:
    """Ask a prompt of about so many tokens.

    Raises:
        TooLongError: the engine refuses it, or cuts it.
    """
    found = _counted(endpoint.ask(prompt, max_tokens), prompt_tokens)
    if found.prompt_tokens < WHOLE * prompt_tokens:
        raise TooLongError(
            f"{endpoint.engine.title} read {found.prompt_tokens} of about {prompt_tokens} tokens.",
            "Start it with a longer context.",
        )
    return found


def _counted(exchange: Exchange, expected: int) -> Exchange:
    """The exchange with the tokens that its prompt was cut to, where the engine counts none."""
    return exchange if exchange.prompt_tokens else replace(exchange, prompt_tokens=expected)


def _alone(fresh: Sequence[Exchange]) -> Iterator[Metric]:
    yield _mean("prompt_tokens", [float(exchange.prompt_tokens) for exchange in fresh], "tokens")
    yield _mean("completion_tokens", [float(exchange.completion_tokens) for exchange in fresh], "tokens")
    yield _mean("ttft", [exchange.first for exchange in fresh], "s")
    yield _mean("prefill_rate", [exchange.prefill_rate for exchange in fresh], "tok/s")
    rates = [exchange.decode_rate for exchange in fresh]
    if all(rate is not None for rate in rates):
        yield _mean("decode_rate", [rate for rate in rates if rate is not None], "tok/s")
        yield _mean("decode_seconds", [exchange.decode_seconds for exchange in fresh], "s")
        gaps = sorted(_gaps(fresh))
        if gaps:
            yield Metric.of("token_gap_p50", gaps[len(gaps) // 2], "s", len(gaps))
            yield Metric.of("token_gap_p99", gaps[min(len(gaps) - 1, math.ceil(0.99 * len(gaps)) - 1)], "s", len(gaps))
    for name in sorted(set.intersection(*(set(exchange.engine) for exchange in fresh))):
        yield _mean(f"engine_{name}", [exchange.engine[name] for exchange in fresh], "tok/s")


def _shared(fresh: Sequence[Exchange], shared: Sequence[Exchange]) -> Iterator[Metric]:
    yield _mean("shared_ttft", [exchange.first for exchange in shared], "s")
    speedups = [cold.first / warm.first for cold, warm in zip(fresh, shared, strict=True)]
    yield _mean("shared_speedup", speedups, "x")
    cached = [exchange.cached_tokens for exchange in shared]
    if all(count is not None for count in cached):
        shares = [(count or 0) / exchange.prompt_tokens for count, exchange in zip(cached, shared, strict=True)]
        yield _mean("shared_cached", shares, "share")


def _together(fresh: Sequence[Exchange], together: Sequence[Sequence[Exchange]]) -> Iterator[Metric]:
    if not together:
        return
    yield _mean("clients", [float(len(group)) for group in together])
    yield _mean("clients_ttft", [statistics.fmean(each.first for each in group) for group in together], "s")
    rates = [[each.decode_rate for each in group] for group in together]
    if all(rate is not None for group in rates for rate in group):
        per_client = [statistics.fmean(rate or 0.0 for rate in group) for group in rates]
        yield _mean("clients_decode_rate", per_client, "tok/s")
    totals = [
        sum(each.completion_tokens for each in group) / max(each.arrivals[-1] for each in group) for group in together
    ]
    yield _mean("clients_throughput", totals, "tok/s")
    single = statistics.fmean(each.completion_tokens / each.arrivals[-1] for each in fresh)
    yield _mean("clients_gain", [total / single for total in totals], "x")


def at_once(endpoint: Endpoint, prompts: Sequence[str], max_tokens: int) -> list[Exchange]:
    """Ask several prompts at the same moment."""
    gate = threading.Barrier(len(prompts))

    def ask(prompt: str) -> Exchange:
        gate.wait()
        return endpoint.ask(prompt, max_tokens)

    with ThreadPoolExecutor(len(prompts)) as pool:
        return list(pool.map(ask, prompts))


def _gaps(exchanges: Sequence[Exchange]) -> tuple[float, ...]:
    """Seconds between pieces of text."""
    return tuple(
        later - earlier
        for exchange in exchanges
        for earlier, later in zip(exchange.arrivals, exchange.arrivals[1:], strict=False)
    )


def _mean(name: str, values: Sequence[float], unit: str = "") -> Metric:
    n = len(values)
    stderr = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Metric.of(name, statistics.fmean(values), unit, n, stderr)


def _notes(endpoint: Endpoint, settings: ProbeSettings) -> str:
    kind = "chat completions" if endpoint.chat else "completions"
    return (
        f"streamed {kind} of {endpoint.engine.title} at {endpoint.name}, up to {settings.max_tokens} tokens; the "
        "prefill rate is prompt tokens over time to first token; the shared prefix is all but the end of the prompt"
    )


def _environment(endpoint: Endpoint, engine_version: str) -> Environment:
    return Environment(
        device=f"{endpoint.engine.title} at {endpoint.name}",
        platform=f"{platform.system()} {platform.machine()} (the client)",
        python=platform.python_version(),
        versions={
            endpoint.engine.name: engine_version or endpoint.fingerprint or "unknown",
            "openai": version("openai"),
        },
        code_version=code_version(),
    )


__all__ = ["CONTEXTS", "ProbeError", "ProbeSettings", "Probed", "run"]
