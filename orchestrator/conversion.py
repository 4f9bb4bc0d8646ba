"""Shows how a model is converted the first time it is used. Knows stages and bytes, not models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from swarm.orchestrator.console import note, notes

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Conversion:
    """A progress bar per stage in a terminal, one line per stage in a pipe; nothing when there is nothing to do."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._stage = ""
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Take note that `done` of `total` bytes of a stage are through."""
        if not notes().is_terminal:
            if stage != self._stage:
                note(f"{self._model}: {stage} ({total / 2**20:.0f} MiB) ...")
            self._stage = stage
            return
        if self._bar is None:
            from rich.progress import DownloadColumn, Progress

            self._bar = Progress(*Progress.get_default_columns(), DownloadColumn(), console=notes(), transient=True)
            self._bar.start()
        if stage != self._stage or self._task is None:
            self._stage = stage
            self._task = self._bar.add_task(f"{self._model}: {stage}", total=total)
        self._bar.update(self._task, completed=done)
