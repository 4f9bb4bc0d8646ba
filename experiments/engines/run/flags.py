"""The flags of an engine as a typed space, and one choice of them: what a trial starts the engine with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import TYPE_CHECKING, Self

from pydantic import Field, StrictInt, StrictStr, field_validator

from swarm.kernels.errors import SpecError
from swarm.kernels.values import FrozenModel

if TYPE_CHECKING:
    from swarm.experiments.space.suggest import Trial

FlagValue = StrictInt | StrictStr


@dataclass(frozen=True)
class Flag:
    """One flag of an engine.

    Attributes:
        name: as the engine calls it, without dashes.
        values: what it may be, first what the engine takes without the flag.
        needs: flags, chosen before, that must have one of these values for this one to be anything but its first.
    """

    name: str
    values: tuple[FlagValue, ...]
    needs: Mapping[str, tuple[FlagValue, ...]] = field(default_factory=dict)

    def is_open(self, chosen: Mapping[str, FlagValue], before: Mapping[str, Flag]) -> bool:
        """Whether there is a choice beside these values of earlier flags."""
        met = all(chosen.get(name, before[name].values[0]) in wanted for name, wanted in self.needs.items())
        return met and len(self.values) > 1


class EngineSpec(FrozenModel):
    """An engine, as people call it, and the flags that differ from what it takes by itself, sorted by name."""

    engine: str
    flags: dict[str, FlagValue] = Field(default_factory=dict)

    @field_validator("flags")
    @classmethod
    def _sorted(cls, flags: dict[str, FlagValue]) -> dict[str, FlagValue]:
        return dict(sorted(flags.items()))

    def __hash__(self) -> int:
        return hash((self.engine, *self.flags.items()))

    @property
    def label(self) -> str:
        """Short unambiguous name, such as `llama.cpp cache-type-k=q8_0 ubatch-size=256`."""
        return " ".join((self.engine, *(f"{name}={value}" for name, value in self.flags.items())))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The specification that `label` writes so.

        Raises:
            SpecError: a piece that is not `NAME=VALUE`.
        """
        engine, *pieces = text.split()
        flags: dict[str, FlagValue] = {}
        for piece in pieces:
            name, equals, value = piece.partition("=")
            if not equals or not value:
                raise SpecError(f"{piece!r} is no flag of an engine.", "Write it as in cache-type-k=q8_0.")
            flags[name] = int(value) if value.lstrip("-").isdecimal() else value
        return cls(engine=engine, flags=flags)


def suggest(trial: Trial, flags: Sequence[Flag]) -> dict[str, FlagValue]:
    """Choose a value for every flag that is open; those that are as the engine has them by itself are left out."""
    before: dict[str, Flag] = {}
    chosen: dict[str, FlagValue] = {}
    for flag in flags:
        if flag.is_open(chosen, before):
            value = trial.suggest_categorical(flag.name, flag.values)
            if value != flag.values[0]:
                chosen[flag.name] = value
        before[flag.name] = flag
    return chosen


def params(spec: EngineSpec, flags: Sequence[Flag]) -> dict[str, FlagValue]:
    """The parameters for which `suggest` gives these flags.

    Raises:
        SpecError: a flag or a value that the space does not have, or one whose condition is not met.
    """
    known = {flag.name: flag for flag in flags}
    for name, value in spec.flags.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise SpecError(
                f"{spec.engine} has no flag {name!r} in its search space.",
                f"Did you mean {near[0]!r}?" if near else f"It has: {', '.join(known)}.",
            )
        if value not in known[name].values[1:]:
            offered = ", ".join(map(str, known[name].values))
            raise SpecError(f"{name}={value} is outside the search space of {spec.engine}.", f"Choices: {offered}.")
    found: dict[str, FlagValue] = {}
    before: dict[str, Flag] = {}
    for flag in flags:
        if flag.is_open(spec.flags, before):
            found[flag.name] = spec.flags.get(flag.name, flag.values[0])
        elif flag.name in spec.flags:
            needs = " and ".join(f"{name}={'|'.join(map(str, values))}" for name, values in flag.needs.items())
            raise SpecError(f"{flag.name}={spec.flags[flag.name]} needs {needs} in {spec.engine}.", "Change either.")
        before[flag.name] = flag
    return found
