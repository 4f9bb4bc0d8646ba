"""What every measuring protocol must offer, and the course of a trial that is compared with the 16-bit run."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from swarm.experiments import edits
from swarm.experiments.environment import device, environment
from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.learned_scaling import learned, learns, trial_caches
from swarm.experiments.measurement.reference_run import ReferenceRun, ScoredRun
from swarm.experiments.measurement.stored_factors import factors_note
from swarm.experiments.space.layers import Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec
from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.model_cache import other_caches, packed_layers
from swarm.kernels.quantizers import base as quantizers
from swarm.kernels.spec import ranges

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import ModelUnderTest
    from swarm.experiments.models.base import ModelInfo

PACKAGE = "swarm.experiments.protocols"
RENAMED = {"noop": "simulated"}
"""Names of protocols in older stores, and today's."""

R = TypeVar("R", bound=ReferenceRun)


class Protocol(ABC):
    """One way to measure a trial. One file in `experiments/protocols` is one protocol, named like its file.

    Attributes:
        name: the module's name, and `TrialSpec.protocol`.
        summary: one line for people.
        rungs: what each fidelity measures, the cheapest first; `TrialSpec.rung` is an index.
        scopes: which layers the search may quantize under this protocol; without any, it never chooses it.
        least_context: tokens that a trial needs at least.
        most_context: tokens that a trial can use at most; None for as many as the model reads.
        version: raised by whoever changes what the protocol measures; results of different versions are not compared.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rungs: ClassVar[tuple[str, ...]]
    scopes: ClassVar[tuple[Scope, ...]] = ()
    least_context: ClassVar[int] = 2
    most_context: ClassVar[int | None] = None
    version: ClassVar[int] = 1

    def check(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Refuse a trial that cannot be run on this model, before anything is loaded.

        Raises:
            SpecError: with the field, its value and what is possible.
        """
        check_rung(self, spec)
        check_context(self, spec)
        _check_device(spec)
        check_model(spec, subject.info)

    def layers_of(self, info: ModelInfo) -> tuple[int, ...]:
        """Numbers of the layers of a model that trials may quantize; the default is all that keep keys and values."""
        return info.kv_layers

    def needs(self, spec: TrialSpec) -> str:  # noqa: ARG002
        """Names what trials like this one share, so that one worker makes it while others do what needs something else.

        The default shares nothing, which is the empty name.
        """
        return ""

    def prepare(self, spec: TrialSpec, subject: ModelUnderTest) -> None:  # noqa: B027
        """Make what all trials like this one share; the default needs nothing."""

    @abstractmethod
    def measure(self, spec: TrialSpec, subject: ModelUnderTest) -> Measurement:
        """Run the trial.

        Raises:
            TrialError: it ended without a measurement; the subclass says how.
        """


class ComparedProtocol(Protocol, Generic[R]):
    """A trial that compares a run over quantized caches with the 16-bit run on the same text.

    Attributes:
        references: the kind of 16-bit run that each rung is compared with.
    """

    references: tuple[type[R], ...]

    @abstractmethod
    def compare(self, spec: TrialSpec, reference: R, caches: list[Any]) -> Measurement:
        """Run the trial over its empty caches, as the model takes them, which are filled.

        `notes` say what was compared, without the rung; `seconds` are left out.
        """

    def needs(self, spec: TrialSpec) -> str:
        """The 16-bit run, and what learned factors are fitted on."""
        if spec.rung >= len(self.references):  # the trial itself says so
            return ""
        kind, factors = self.references[spec.rung].kind, " with factors" * learns(spec.kv)
        text = f"at {spec.context}, replicate {spec.replicate}, gain {spec.logit_gain:g}"
        return f"{kind} of {spec.model} {text} {edits.label(spec.edits)}{factors}"

    def prepare(self, spec: TrialSpec, subject: ModelUnderTest) -> None:
        """Capture the 16-bit run, and fit learned factors."""
        subject.shared(self.references[spec.rung], spec)
        learned(spec, subject)

    def measure(self, spec: TrialSpec, subject: ModelUnderTest) -> Measurement:
        """Compare, and add how long it took and which learned factors were used."""
        start = time.perf_counter()
        reference = subject.shared(self.references[spec.rung], spec)
        ready = time.perf_counter()
        caches = trial_caches(spec, subject)
        fitted = time.perf_counter()
        found = self.compare(spec, reference, caches)
        notes = f"{self.rungs[spec.rung]}: {found.notes}." + factors_note(packed_layers(caches))
        seconds = {"prepare": ready - start, "fit": fitted - ready, "measure": time.perf_counter() - fitted}
        return found.model_copy(update={"notes": notes, "seconds": seconds})


def scored(
    scores: divergence.Scores,
    reference: ScoredRun,
    caches: Sequence[Any],
    *,
    metrics: Sequence[Metric] = (),
    arrays: Mapping[str, tuple[float, ...]] | None = None,
    notes: str = "",
) -> Measurement:
    """Divergence from the 16-bit run, bits per value and noise floor as a measurement, with what a protocol adds."""
    return Measurement(
        metrics=(*divergence.metrics(scores), *storage(caches), divergence.noise(reference.noise_kld), *metrics),
        arrays={**divergence.arrays(scores), **(arrays or {})},
        notes=reference.scored + notes,
        environment=environment(),
    )


def storage(caches: Sequence[Any]) -> tuple[Metric, ...]:
    """`bits_per_value` over everything packed now, and `bits_per_value_limit`, its limit for long contexts.

    Tokens that a sliding window has left are released first. All layers with keys and values count, also those that
    stay in 16 bit. In the limit layers weigh by their values per token: sinks, residual windows and codebooks vanish.
    Where a model keeps other things too, `cache_bytes` is the size of its whole cache, per sequence.
    """
    packed, others = packed_layers(caches), other_caches(caches)
    for cache in packed:
        cache.release()
    held = [(sum(side.live_nbytes for side in c.sides) * 8, sum(side.values for side in c.sides)) for c in packed]
    bits, values = (sum(column) for column in zip(*held, strict=True))
    sizes = [sum(side.token_values for side in c.sides) for c in packed]
    shares = [size / max(sizes) for size in sizes]
    limit = sum(share * c.limit_bits_per_value() for share, c in zip(shares, packed, strict=True)) / sum(shares)
    found = Metric.of("bits_per_value", bits / values, "bit"), Metric.of("bits_per_value_limit", limit, "bit")
    if not others:
        return found
    whole = (bits / 8 + sum(cache.nbytes for cache in others)) / max(cache.sequences for cache in packed)
    return (*found, Metric.of("cache_bytes", whole, "B"))


def protocol(name: str) -> Protocol:
    """The protocol of a name, also of one that older stores hold.

    Raises:
        UnknownNameError: with the list of known protocols.
    """
    return plugins.load(PACKAGE, Protocol, RENAMED.get(name, name))()  # type: ignore[type-abstract]


def searchable() -> tuple[str, ...]:
    """Names of the protocols that the search may choose."""
    return tuple(name for name, kind in plugins.load_all(PACKAGE, Protocol).items() if kind.scopes)  # type: ignore[type-abstract]


def check_rung(protocol: Protocol, spec: TrialSpec) -> None:
    """Refuse a rung that the protocol does not have."""
    if spec.rung >= len(protocol.rungs):
        known = "; ".join(f"{number} {text}" for number, text in enumerate(protocol.rungs))
        raise SpecError(f"rung={spec.rung} does not exist in {spec.protocol}.", f"It has: {known}.")


def check_context(protocol: Protocol, spec: TrialSpec) -> None:
    """Refuse a context that is too short for the protocol, or longer than it can use."""
    if spec.context < protocol.least_context:
        raise SpecError(
            f"context={spec.context} is too short for {spec.protocol}.",
            f"It needs {protocol.least_context} tokens or more.",
        )
    if protocol.most_context is not None and spec.context > protocol.most_context:
        raise SpecError(
            f"context={spec.context} is more than {spec.protocol} can use.",
            f"Use {protocol.most_context} tokens or less.",
        )


def _check_device(spec: TrialSpec) -> None:
    """Refuse a trial for another device than this process computes on."""
    if spec.device != device():
        raise SpecError(
            f"the trial is for the device {spec.device!r}, and MLX computes on {device()!r} here.",
            f"Run it on such a machine, or with device={device()}.",
        )


def check_model(spec: TrialSpec, info: ModelInfo) -> None:
    """Refuse layers, contexts and groups that the model does not have or does not fit."""
    named = (*(spec.layers or ()), *(layer for override in spec.kv.overrides for layer in override.layers))
    if max(named, default=0) >= info.n_layers:
        raise SpecError(
            f"layer {max(named)} does not exist in {info.name}.", f"Its layers are 0 to {info.n_layers - 1}."
        )
    if none := sorted(set(named) - set(info.kv_layers)):
        raise SpecError(
            f"layer {none[0]} of {info.name} keeps no keys and values ({info.layers[none[0]].kind}).",
            f"Layers that do: {ranges(info.kv_layers)}.",
        )
    if spec.context > info.max_context:
        raise SpecError(
            f"context={spec.context} is longer than {info.name} can read.",
            f"It reads at most {info.max_context} tokens.",
        )
    if spec.kv.key_bias == "subtract" and not info.key_bias:
        raise SpecError(f"{info.name} has no key bias to subtract.", "Use key_bias=keep.")
    for layer in info.kv_layers:
        kv, shape = spec.kv.at(layer), info.layers[layer]
        for quant, dim in ((kv.key, shape.key_dim), (kv.value, shape.value_dim)):
            quantizers.method(quant.method).check_head_dim(quant, dim)
