"""The error tree of the project. Every error names the thing that failed and what to do next."""

from __future__ import annotations


class SwarmError(Exception):
    """Root of all expected errors: one clear line, a remedy, and the exit code of the command that met it."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str = "") -> None:
        self.problem = problem
        self.remedy = remedy
        super().__init__(f"{problem} {remedy}".strip())

    def __reduce__(self) -> tuple[type[SwarmError], tuple[str, str]]:
        return type(self), (self.problem, self.remedy)


class UsageError(SwarmError):
    """The request itself is wrong: an unknown name, a value out of range, a combination without meaning."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that no plug-in, model, campaign or trial carries."""

    def __init__(self, kind: str, name: str, known: str = "") -> None:
        super().__init__(f"unknown {kind} {name!r}.", f"Known: {known}." if known else "")
        self.args_ = (kind, name, known)

    def __reduce__(self) -> tuple[type[SwarmError], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), self.args_


class SpecError(UsageError):
    """A quantization or trial specification that cannot be built."""


class BackendError(SwarmError):
    """A compute back-end that is missing or does not work on this machine."""


class ModelError(SwarmError):
    """A model that cannot be loaded."""


class TrialError(SwarmError):
    """A trial that ended without a measurement; subclasses are the recorded outcomes."""

    outcome = "error"


class NonFiniteError(TrialError):
    """NaN or Inf where a number was expected."""

    outcome = "nan"


class OutOfMemoryError(TrialError):
    """The trial needed more memory than the device or the host had."""

    outcome = "oom"


class DiskFullError(TrialError):
    """No space was left for captures or results."""

    outcome = "disk_full"
