"""An engine with flags: started on loopback, timed at the wanted depth, and compared with its own 16-bit run."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.engines.probe.endpoint import ProbeError
from swarm.experiments.engines.probe.prompts import SAMPLE_CHARACTERS, PromptMaker
from swarm.experiments.engines.probe.scenarios import ProbeSettings, at_context
from swarm.experiments.engines.run import flags, quality
from swarm.experiments.engines.run.process import RunningEngine, running
from swarm.experiments.engines.run.startable import NoProbabilitiesError, RefusedError, startable
from swarm.experiments.protocols.base import Protocol, check_context, check_rung
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.run.flags import EngineSpec
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

ANSWER_TOKENS = 64
CLIENTS = (2, 4)
"""Clients at once on the upper rung."""


class EngineFlags(Protocol):
    """Decode and prefill rate at the end of the context, first token, prefix reuse, memory, and divergence."""

    name: ClassVar[str] = "engine"
    summary: ClassVar[str] = "an engine with flags: speed at depth, memory, and divergence from its own 16-bit run"
    rungs: ClassVar[tuple[str, ...]] = ("one client", "one client, then two and four at once")
    least_context: ClassVar[int] = 256

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
        try:
            exact = quality.reference(engine, spec, subject)
        except NoProbabilitiesError:
            exact = []
        with running(engine, subject.name, chosen.flags, context=spec.context + quality.ROOM) as up:
            found = _timed(up, spec, text)
            compared, windows = quality.metrics(exact, quality.expected(up, spec, text)) if exact else ([], {})
            memory = Metric.of("memory", float(up.memory()), "bytes resident")
            start = Metric.of("start_seconds", up.start_seconds, "s")
        rates = found.arrays["run_decode_rate"]
        decode = Metric.of("decode_rate", sum(rates) / len(rates), "tok/s", len(rates))
        kept = [metric for metric in found.metrics if metric.name != decode.name]
        crowd = _crowded(spec, subject.name, text) if spec.rung else []
        said = f"; {quality.notes(engine, exact)}" if exact else "; speed only: the engine tells no probabilities"
        return found.model_copy(
            update={
                "metrics": (decode, *compared, memory, start, *kept, *crowd),
                "arrays": {**found.arrays, **windows},
                "environment": found.environment.model_copy(
                    update={"versions": {**found.environment.versions, engine.name: engine.build()}}
                ),
                "notes": f"{self.rungs[spec.rung]}: {found.notes}{said}.",
            }
        )


def _of(spec: TrialSpec) -> EngineSpec:
    if spec.engine is None:
        raise SpecError("a trial of protocol engine names no engine.", "Start it with `swarm launch --engine NAME`.")
    return spec.engine


def _timed(up: RunningEngine, spec: TrialSpec, text: str, clients: int = 1) -> Measurement:
    """What `swarm probe` measures at the trial's context.

    Raises:
        RefusedError: the engine refuses a request, or answers no more.
    """
    settings = ProbeSettings(contexts=(spec.context,), max_tokens=ANSWER_TOKENS, repeats=1, clients=clients)
    try:
        endpoint = up.endpoint
        return at_context(endpoint, _maker(up, endpoint, text), spec.context, settings)
    except ProbeError as error:
        raise RefusedError(error.problem, error.remedy) from error


def _maker(up: RunningEngine, endpoint: Endpoint, text: str) -> PromptMaker:
    """What cuts prompts: by the engine's own tokens where it tells them, else by two requests."""
    sample = text[:SAMPLE_CHARACTERS]
    pieces = up.engine.pieces(up.host, up.model, sample)
    if isinstance(pieces[0], str):
        return PromptMaker.measured(endpoint, text)
    return PromptMaker(text, len(sample) / len(pieces), 0.0)


def _crowded(spec: TrialSpec, model: str, text: str) -> list[Metric]:
    """The rates of several clients at once, each with a slot of the whole context."""
    chosen = _of(spec)
    found = []
    for clients in CLIENTS:
        room = spec.context + quality.ROOM
        with running(startable(chosen.engine), model, chosen.flags, context=room, clients=clients) as up:
            timed = _timed(up, spec, text, clients)
            memory = Metric.of(f"clients{clients}_memory", float(up.memory()), "bytes resident")
        named = (m for m in timed.metrics if m.name.startswith("clients_"))
        found += [m.model_copy(update={"name": m.name.replace("clients", f"clients{clients}")}) for m in named]
        found.append(memory)
    return found
