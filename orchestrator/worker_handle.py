"""A worker as the pool sees it: its process, what it does now, and how it ended."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from math import inf
from typing import TYPE_CHECKING, Any

from swarm.experiments.spec import Failure
from swarm.orchestrator.cluster import Cluster, actor_options

if TYPE_CHECKING:
    from queue import SimpleQueue

    from swarm.orchestrator.worker import WorkerPlan

START_TIMEOUT = 180.0
"""Seconds in which a process has to say that it is up."""
LOST = "lost"
"""Kind of failure of a trial that never ended through no fault of its own, because its node went away."""
EVICTED = "evicted"
"""Kind of failure of a trial whose worker Ray ended because its machine, perhaps not the trial, ran out of memory."""


@dataclass(eq=False)
class WorkerHandle:
    """One worker of a pool, whose process may be replaced.

    Attributes:
        inbox: gets (handle, generation, future) for every answer of the process.
        actor: the Ray actor in the process.
        generation: tells messages of a replaced process from those of its successor.
        up: whether the process said that it can run trials.
        failed_starts: how many processes in a row did not come up.
        resident: the model in its memory.
        trial_id: the trial that it runs.
        node: where it is.
        making: what it makes now that trials share, for its trial or, without one, ahead of any.
        preparing_took: seconds that making took for its trial.
        deadline: when, on the monotonic clock, it is taken to hang.
    """

    inbox: SimpleQueue[Any]
    actor: Any = None
    generation: int = 0
    up: bool = False
    failed_starts: int = 0
    resident: str | None = None
    trial_id: int | None = None
    node: str = ""
    making: str = ""
    preparing_took: float = 0.0
    deadline: float = inf

    def start(self, plan: WorkerPlan, cluster: Cluster) -> None:
        """Start a process, in place of the one that it had."""
        import ray

        self.generation += 1
        self.up, self.resident, self.trial_id = False, None, None
        self.deadline = time.monotonic() + START_TIMEOUT
        self.actor = (
            ray.remote(cluster.actor_class)
            .options(**actor_options(cluster.wanted), max_restarts=0, max_task_retries=0)
            .remote(replace(plan, gpu_share=cluster.wanted.get("GPU", 0.0)))
        )
        self.expect(self.actor.greet.remote())

    def expect(self, reference: Any) -> None:
        """Have the answer to a call of the actor put into the inbox."""
        generation = self.generation
        reference.future().add_done_callback(lambda future: self.inbox.put((self, generation, future)))

    def end(self) -> None:
        """End the process; what it did is lost."""
        import ray

        ray.kill(self.actor, no_restart=True)
        self.up, self.trial_id, self.making, self.preparing_took = False, None, "", 0.0


def why_lost(error: BaseException) -> Failure:
    """How the trial ended whose worker Ray reports as gone."""
    text = " ".join(str(error).split())
    match = re.search(r"Worker exit type: (\w+)", text)
    kind = match.group(1) if match else type(error).__name__
    if kind in ("NODE_OUT_OF_MEMORY", "OutOfMemoryError"):
        return Failure(kind=EVICTED, message="Ray ended the worker because its machine ran out of memory.")
    if "node" in text and "died" in text and match is None:
        return Failure(kind=LOST, message=f"the node of the worker was lost: {text[:300]}")
    detail = re.search(r"Worker exit detail: (.*?)(?: Some common causes|$)", text)
    return Failure(kind="crash", message=f"the worker process died ({kind}): {(detail[1] if detail else text)[:300]}")
