"""Runs a campaign in the foreground of a terminal: signals, what is shown meanwhile, and what is said at the end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, Self

from swarm.kernels.errors import SwarmError
from swarm.orchestrator.console import Conversion, note, say
from swarm.orchestrator.printing import show_markdown

if TYPE_CHECKING:
    from swarm.memory.records import TrialRecord
    from swarm.orchestrator.campaign import Campaign
    from swarm.orchestrator.settings import Settings

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class AllFailedError(SwarmError):
    """A campaign in which no trial could be measured."""

    def __init__(self, first: Sequence[TrialRecord]) -> None:
        cause = " ".join(f"The first: trial {record.id}, {record.outcome}: {record.message}" for record in first[:1])
        super().__init__(f"every trial failed. {cause}", "Run `swarm doctor`, mend the cause, and launch again.")


class StopSignals:
    """Handles Ctrl-C and SIGTERM while it is entered: raises KeyboardInterrupt, or calls what `defer` was given.

    A handler that raises can do so between a write and its bookkeeping; so while a campaign runs, and until its
    workers are down, nothing is raised and the campaign is asked to stop.
    """

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._previous: dict[int, Any] = {}
        self.exit_code = 0
        """What a shell expects of a process that was stopped by the last signal; 0 before there is one."""

    def defer(self, stop: Callable[[], None]) -> None:
        """From now on call `stop` in the handler instead of raising."""
        self._stop = stop

    def arm(self) -> None:
        """Take the signals; again after Ray has come up, which takes SIGTERM for itself. Main thread only."""
        for signum in SIGNALS:
            signal.signal(signum, self._handle)

    def __enter__(self) -> Self:
        self._previous = {signum: signal.getsignal(signum) for signum in SIGNALS}
        self.arm()
        return self

    def __exit__(self, *exc: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, _frame: FrameType | None) -> None:
        self.exit_code = 128 + signum
        if self._stop is None:
            raise KeyboardInterrupt
        self._stop()


def prepare(settings: Settings) -> None:
    """What a campaign in the foreground tells while its workers come up: a hint, and models as they are converted."""
    from swarm.agents.llm import endpoint
    from swarm.experiments.models import registry
    from swarm.kernels import blas
    from swarm.orchestrator import workload

    hint = endpoint.hint(settings.for_llm())
    if hint:
        note(hint)
    if settings.rehearsal is None:
        blas.use_openblas(1)  # before MLX is imported
        for name in workload.models_to_load(settings):
            with Conversion(name) as progress:
                registry.ensure(name, progress)


def run(campaign: Campaign, signals: StopSignals) -> None:
    """Drive a campaign to its end, or until a signal stops it, and show it.

    Raises:
        AllFailedError: the campaign is over and has no measurement.
    """
    from swarm.orchestrator.monitor.view import monitor

    signals.defer(campaign.stop)
    if left_out := campaign.record.settings.get("left_out"):
        note(left_out)
    with monitor() as shown:
        for event in campaign:
            shown.show(event)
    _tell(campaign)


def _tell(campaign: Campaign) -> None:
    """Print the newest summary and what to do next."""
    from swarm.agents.llm.telemetry import in_words, report
    from swarm.agents.writing.summary import body

    store, record = campaign.store, campaign.record
    counts = store.trials.count(record.id)
    finished = sum(amount for what, amount in counts.items() if what not in ("waiting", "running"))
    say()
    if campaign.state != "complete":
        say(f"{finished} of {record.budget.trials} trials are recorded. Go on with `swarm resume {record.name}`.")
        return
    if not counts.get("complete", 0):
        raise AllFailedError(store.trials.list(record.id, upto=1))
    for summary in store.summaries.list(record.id)[-1:]:
        show_markdown(body(campaign.summary))
        say()
        say(f"All claims with their verdicts: `swarm show summary {summary.id}`.")
        say(f"Summary {summary.id} waits for you: `swarm review {summary.id} --accept` or `--reject --note ...`.")
    llm = report(store, record.id)
    if llm is not None:
        say(f"The LLM {llm['model'] or ''}: {in_words(llm)}.")
    say("Look further with `swarm findings`, `swarm trials --pareto` and `swarm query`.")
