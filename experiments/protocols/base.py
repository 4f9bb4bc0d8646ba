"""The seam of all measuring protocols. Knows specifications and subjects; runs nothing itself."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from swarm.experiments.space.scopes import Scope
from swarm.experiments.spec import Measurement, TrialSpec
from swarm.kernels import plugins
from swarm.kernels.errors import SpecError

if TYPE_CHECKING:
    from swarm.experiments.measurement.model_under_test import Subject
    from swarm.experiments.models.base import ModelInfo

PACKAGE = "swarm.experiments.protocols"


class Protocol(ABC):
    """One way to measure a trial. One file in `experiments/protocols` is one protocol, named like its file.

    Attributes:
        name: the module's name, and `TrialSpec.protocol`.
        summary: one line for people.
        rungs: what each fidelity measures, the cheapest first; `TrialSpec.rung` is an index.
        scopes: which layers the search may quantize under this protocol; without any, it never chooses it.
        version: raised by whoever changes what the protocol measures; results of different versions are not compared.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    rungs: ClassVar[tuple[str, ...]]
    scopes: ClassVar[tuple[type[Scope], ...]] = ()
    version: ClassVar[int] = 1

    def check(self, spec: TrialSpec, subject: Subject) -> None:
        """Refuse a trial that cannot be run on this model, before anything is loaded.

        Raises:
            SpecError: with the field, its value and what is possible.
        """
        check_rung(self, spec)
        check_device(spec)
        check_model(spec, subject.info)

    def prepare(self, spec: TrialSpec, subject: Subject) -> None:  # noqa: B027
        """Make what all trials like this one share; the default needs nothing."""

    @abstractmethod
    def measure(self, spec: TrialSpec, subject: Subject) -> Measurement:
        """Run the trial.

        Raises:
            TrialError: it ended without a measurement; the subclass says how.
        """


def protocol(name: str) -> Protocol:
    """The protocol of a name.

    Raises:
        UnknownNameError: with the list of known protocols.
    """
    return plugins.load(PACKAGE, Protocol, name)()  # type: ignore[type-abstract]


def searchable() -> tuple[str, ...]:
    """Names of the protocols that the search may choose."""
    return tuple(name for name in plugins.names(PACKAGE) if protocol(name).scopes)


def check_rung(protocol: Protocol, spec: TrialSpec) -> None:
    """Refuse a rung that the protocol does not have."""
    if spec.rung >= len(protocol.rungs):
        known = "; ".join(f"{number} {text}" for number, text in enumerate(protocol.rungs))
        raise SpecError(f"rung={spec.rung} does not exist in {spec.protocol}.", f"It has: {known}.")


def check_device(spec: TrialSpec) -> None:
    """Refuse a trial for another device than this process computes on."""
    from swarm.experiments.environment import device

    if spec.device != device():
        raise SpecError(
            f"the trial is for the device {spec.device!r}, and MLX computes on {device()!r} here.",
            f"Run it on such a machine, or with device={device()}.",
        )


def check_model(spec: TrialSpec, info: ModelInfo) -> None:
    """Refuse layers, contexts and groups that the model does not have or does not fit."""
    from swarm.kernels.quantizers import base

    named = (*(spec.layers or ()), *(layer for override in spec.kv.overrides for layer in override.layers))
    if max(named, default=0) >= info.n_layers:
        raise SpecError(
            f"layer {max(named)} does not exist in {info.name}.", f"Its layers are 0 to {info.n_layers - 1}."
        )
    if spec.context > info.max_context:
        raise SpecError(
            f"context={spec.context} is longer than {info.name} can read.",
            f"It reads at most {info.max_context} tokens.",
        )
    if spec.kv.key_bias == "subtract" and not info.key_bias:
        raise SpecError(f"{info.name} has no key bias to subtract.", "Use key_bias=keep.")
    for layer in range(info.n_layers):
        kv = spec.kv.at(layer)
        for quant in (kv.key, kv.value):
            base.method(quant.method).check_head_dim(quant, info.head_dim)
