"""A campaign for its user: run it by iterating it, and ask for what it found."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Self

from swarm.orchestrator.monitor.events import CampaignEvent, EventReader
from swarm.orchestrator.results import Rows, StoreReader

if TYPE_CHECKING:
    from swarm.memory.records import CampaignState
    from swarm.orchestrator.driver import Driver


class Campaign:
    """A campaign that is driven here: iterating it runs its trials and yields what happens, up to its end.

    Use it as a context manager: its workers end with the block. Where the loop is left early, the campaign can be
    gone on with by iterating it again, or by `swarm resume` later.

    Args:
        driver: what runs its trials; closed with the campaign, as the store is.
    """

    def __init__(self, driver: Driver) -> None:
        self.store = driver.store
        self.record = driver.record
        self._driver = driver
        self._results = StoreReader(driver.store)

    @property
    def state(self) -> CampaignState:
        """Whether it runs, is complete, or was interrupted."""
        return self._driver.state

    def __iter__(self) -> Iterator[CampaignEvent]:
        return iter(self._driver)

    def result(self, *, progress: bool = True) -> CampaignState:
        """Go on to the end, with a progress bar in a terminal or a notebook.

        Returns:
            `complete`, or `interrupted` when the time was up or a stop was asked for.
        """
        from swarm.orchestrator.monitor.view import BarMonitor

        earlier = EventReader(self.store, self.record.id).open() if self._driver.opened else []
        with BarMonitor(enabled=progress) as bar:
            for event in chain(earlier, self):
                bar.show(event)
        return self.state

    def findings(self) -> Rows:
        """What was found so far: typed claims with effects, intervals, evidence and status, one row each."""
        return self._results.findings(self.record.name)

    def best(self, bits: float = 4.5, rung: int = 0) -> Rows:
        """Per model, the measured configuration with the smallest KLD at no more than so many bits per value.

        Args:
            bits: the limit, metadata included.
            rung: of the quality protocol; KLD compares within a rung only.
        """
        return self._results.best(bits, rung, self.record.name)

    def front(self, model: str | None = None) -> Rows:
        """The Pareto front of KLD and bits per value, of one model or of all."""
        return self._results.front(model, self.record.name)

    @property
    def summary(self) -> str:
        """The newest summary as markdown, its numbers filled in from the store; empty before there is one."""
        return self._results.summary(self.record.name)

    def stop(self) -> None:
        """End the campaign within seconds, to be gone on with later; the second time at once. Safe in signal handlers.

        Whoever iterates the campaign gets the last events, and running trials a moment to end.
        """
        self._driver.stop()

    def close(self) -> None:
        """End the workers and close the store. What was not finished can be gone on with by `swarm resume`."""
        self._driver.close()
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _repr_html_(self) -> str:
        """The best configurations so far, for notebooks."""
        name, limit = escape(self.record.name), 4.5
        return f"<p>Campaign {name}: {self.state}. Best at {limit} bits per value:</p>" + self.best(limit)._repr_html_()
