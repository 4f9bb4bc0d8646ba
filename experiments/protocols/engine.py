"""An engine with flags: started on loopback, timed at the wanted depth, and compared with its own 16-bit run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.engines.probe import scenarios
from swarm.experiments.engines.probe.endpoint import NoTextError, insist
from swarm.experiments.engines.probe.prompts import PromptMaker
from swarm.experiments.engines.probe.scenarios import ProbeSettings
from swarm.experiments.engines.run import flags, quality
from swarm.experiments.engines.run.process import RunningEngine, running
from swarm.experiments.engines.run.reading import EngineReading, answers, behind
from swarm.experiments.engines.run.startable import RefusedError, startable
from swarm.experiments.protocols.base import Protocol, check_context, check_rung
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    from swarm.experiments.engines.probe.endpoint import Endpoint, Exchange
    from swarm.experiments.engines.run.flags import EngineSpec
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

ANSWER_TOKENS = 32
"""Tokens of the answer to the prompt alone, by which most of the decode rate is measured."""
FIRST = "Once upon a time"
"""A prompt that begins as no other does."""
CLIENTS = (2, 4)
"""Clients at once on the upper rung."""


class EngineFlags(Protocol):
    """Decode and prefill rate at the end of the context, first token, reuse, memory, divergence and lost answers."""

    name: ClassVar[str] = "engine"
    summary: ClassVar[str] = (
        "an engine with flags: speed at depth, memory, divergence and answers beside its own 16-bit run"
    )
    rungs: ClassVar[tuple[str, ...]] = ("one client", "one client, then two and four at once")
    least_context: ClassVar[int] = 256
    version: ClassVar[int] = 2

    def check(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Refuse flags that the engine does not have."""
        check_rung(self, spec)
        check_context(self, spec)
        engine = startable(_of(spec).engine)
        flags.params(_of(spec), engine.flags(subject.info))
        if spec.context > subject.info.max_context:
            raise SpecError(
                f"context={spec.context} is longer than {subject.info.name} can read.",
                f"It reads at most {subject.info.max_context} tokens.",
            )

    def prepare(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Ask the 16-bit run of the engine what it expects."""
        quality.reference(startable(_of(spec).engine), spec, subject)

    def measure(self, spec: TrialSpec, subject: ModelUnderTest) -> Measurement:
        """Start the engine, time it, ask it what comes next, end it; on the upper rung again with several clients."""
        chosen = _of(spec)
        engine = startable(chosen.engine)
        text = subject.corpus.part("scored")
        exact = quality.reference(engine, spec, subject)
        reading = EngineReading.of(spec, text, exact.characters)
        with running(engine, subject.name, chosen.flags, context=spec.context + quality.ROOM) as up:
            fresh, asked = _asked(up, spec, reading)
            answering = [each for each in asked if each is not None]
            found = _summary(up, spec, [fresh], answering[:1])
            compared, windows = _compared(up, spec, reading, exact)
            memory = Metric.of("memory", float(up.memory()), "bytes resident")
            start = Metric.of("start_seconds", up.start_seconds, "s")
        answered = [
            each is not None and answers(question, each.text)
            for question, each in zip(reading.questions, asked, strict=False)
        ]
        decode = _decode_rate([fresh, *answering], engine.title)
        kept = [metric for metric in found.metrics if metric.name != decode.name]
        crowd = _crowded(spec, subject.name, text, exact.characters, fresh) if spec.rung else []
        items = {"item_match": tuple(map(float, answered)), "item_match_16bit": tuple(map(float, exact.answered))}
        return found.model_copy(
            update={
                "metrics": (
                    decode,
                    *compared,
                    *quality.retrieval(exact.answered, answered),
                    memory,
                    start,
                    *kept,
                    *crowd,
                ),
                "arrays": {**found.arrays, **windows, **(items if answered else {})},
                "environment": found.environment.model_copy(
                    update={"versions": {**found.environment.versions, engine.name: engine.build()}}
                ),
                "notes": f"{self.rungs[spec.rung]}: {found.notes}; {quality.notes(engine, exact)}.",
            }
        )


def _of(spec: TrialSpec) -> EngineSpec:
    if spec.engine is None:
        raise SpecError("a trial of protocol engine names no engine.", "Start it with `swarm launch --engine NAME`.")
    return spec.engine


def _asked(up: RunningEngine, spec: TrialSpec, reading: EngineReading) -> tuple[Exchange, list[Exchange | None]]:
    """Answers to the prompt, and to the prompt with each question (or with more text); None: it ends at once.

    Raises:
        RefusedError: the engine refuses a request, or answers no more.
    """
    size = spec.context - behind(spec.context)
    longer = [reading.asked(question) for question in reading.questions] or [reading.whole[: len(reading.prompt) + 99]]
    with quality.refusing():
        endpoint = _warm(up)
        fresh = insist(lambda: scenarios.ask_whole(endpoint, reading.prompt, size, ANSWER_TOKENS))
        found: list[Exchange | None] = []
        for prompt in longer:
            found.append(None)
            with suppress(NoTextError):
                found[-1] = scenarios.ask_whole(endpoint, prompt, size, quality.ANSWER_TOKENS)
    return fresh, found


def _warm(up: RunningEngine) -> Endpoint:
    """The engine after a first request, which may load the model."""
    endpoint = up.endpoint
    with suppress(NoTextError):
        endpoint.ask(FIRST, 2)
    return endpoint


def _summary(
    up: RunningEngine,
    spec: TrialSpec,
    fresh: Sequence[Exchange],
    shared: Sequence[Exchange] = (),
    together: Sequence[Sequence[Exchange]] = (),
) -> Measurement:
    clients = len(together[0]) if together else 1
    settings = ProbeSettings(contexts=(spec.context,), max_tokens=ANSWER_TOKENS, repeats=1, clients=clients)
    with quality.refusing():
        return scenarios.measured(up.endpoint, settings, fresh, shared, together)


def _compared(
    up: RunningEngine, spec: TrialSpec, reading: EngineReading, exact: quality.EngineReference
) -> tuple[list[Metric], dict[str, tuple[float, ...]]]:
    """The divergence, where the engine tells probabilities."""
    if not exact.expected:
        return [], {}
    return quality.metrics(exact.expected, quality.expected(up, spec, reading))


def _decode_rate(exchanges: Sequence[Exchange], title: str) -> Metric:
    """Tokens of all answers after their first piece of text, over the seconds that they took.

    Raises:
        RefusedError: every answer came in one piece.
    """
    timed = [(each.decode_rate, each.decode_seconds) for each in exchanges if each.decode_rate is not None]
    if not timed:
        raise RefusedError(f"{title} sends every answer in one piece.", "Its rates cannot be measured.")
    rate = sum(rate * seconds for rate, seconds in timed) / sum(seconds for _, seconds in timed)
    return Metric.of("decode_rate", rate, "tok/s", len(timed))


def _crowded(spec: TrialSpec, model: str, text: str, characters: float, alone: Exchange) -> list[Metric]:
    """The rates of several clients at once, each with a slot of the whole context, beside one client alone."""
    chosen = _of(spec)
    found = []
    maker = PromptMaker(text, characters, 0.0)
    size = spec.context - behind(spec.context)
    for clients in CLIENTS:
        room = spec.context + quality.ROOM
        prompts = [maker.prefix(size) for _ in range(clients)]
        with running(startable(chosen.engine), model, chosen.flags, context=room, clients=clients) as up:
            together = _together(up, prompts)
            timed = _summary(up, spec, [alone], together=[together])
            memory = Metric.of(f"clients{clients}_memory", float(up.memory()), "bytes resident")
        named = (m for m in timed.metrics if m.name.startswith("clients_"))
        found += [m.model_copy(update={"name": m.name.replace("clients", f"clients{clients}")}) for m in named]
        found.append(memory)
    return found


def _together(up: RunningEngine, prompts: Sequence[str]) -> list[Exchange]:
    """Answers to prompts that are asked at the same moment."""
    with quality.refusing():
        endpoint = _warm(up)
        return insist(lambda: scenarios.at_once(endpoint, prompts, ANSWER_TOKENS))
