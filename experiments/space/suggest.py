"""What gives values to named search parameters: an Optuna trial, a random draw, or given values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from swarm.kernels.errors import SpecError

Params = dict[str, str | int | float | None]


class Trial(Protocol):
    """A source of values: an Optuna trial, a random draw, or given values."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of the choices."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number from low to high, both included."""


class RandomTrial:
    """Uniform random values for every parameter that is asked for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # noqa: ARG002
        """One of the choices, all equally likely."""
        return choices[int(self._rng.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int) -> int:  # noqa: ARG002
        """A whole number from low to high, both included, all equally likely."""
        return int(self._rng.integers(low, high + 1))


class GivenTrial:
    """Given values, for turning parameters into a trial specification."""

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._params = params

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """The given value.

        Raises:
            SpecError: it is missing or not among the choices.
        """
        if name not in self._params or self._params[name] not in choices:
            raise SpecError(f"{name}={self._params.get(name)!r} is outside the search space.", f"Choices: {choices}.")
        return self._params[name]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """The given value.

        Raises:
            SpecError: it is missing or out of range.
        """
        value = self._params.get(name)
        if not isinstance(value, int) or not low <= value <= high:
            raise SpecError(f"{name}={value!r} is outside the search space.", f"Range: {low} to {high}.")
        return value
