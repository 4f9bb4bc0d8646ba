"""One launch on several devices of a cluster: a campaign for each, side by side, with its part of the budget.

Results of two devices cannot be compared, and a proposal waits for all results but the last few. So each device has a
campaign, which proposes from its own results alone and waits for nobody else; each campaign is what it would be if it
were launched by itself. Their drivers are processes of their own, whose lines are passed on here.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import IO, TYPE_CHECKING, Any

from swarm.kernels.errors import UsageError
from swarm.memory.store import Store
from swarm.orchestrator import campaign_workers, console

if TYPE_CHECKING:
    from collections.abc import Callable

    from swarm.orchestrator.foreground import StopSignals
    from swarm.orchestrator.settings import Settings

PROGRAM = (sys.executable, "-c", "from swarm.orchestrator.cli import main; main()")
"""What runs a command of `swarm` in a process of its own."""
SHARED = ("budget", "max_tokens", "max_usd")
"""Limits of the launch, of which each campaign gets its share."""
DISCONNECT = 30.0
"""Seconds that the connection to Ray gets to end before the campaigns make theirs."""


def divide(amount: float, shares: Sequence[int]) -> list[float]:
    """An amount in parts by shares, which add up to it; whole numbers where it is one."""
    ends = [amount * end / sum(shares) for end in accumulate(shares, initial=0)]
    if isinstance(amount, int):
        ends = [round(end) for end in ends]
    return [end - start for start, end in pairwise(ends)]


def workers(settings: Settings, device: str) -> int:
    """How many workers the cluster has for a device, or as many as were asked for.

    Raises:
        PoolError: none, or no cluster.
    """
    if settings.workers is not None:
        return settings.workers
    pool = campaign_workers.make_pool(settings.model_copy(update={"device": device}))
    pool.start()
    try:
        return pool.workers
    finally:
        pool.close(DISCONNECT)


def parts(settings: Settings) -> dict[str, dict[str, Any]]:
    """By device, what its campaign is told otherwise than the launch.

    Raises:
        UsageError: there is no cluster to run on, or the budget is smaller than the number of devices.
        PoolError: the cluster has no room on a device.
    """
    if settings.ray_address is None or settings.engine is not None:
        raise UsageError(
            f"--device {settings.device}: several devices are those of a Ray cluster's nodes, for trials on caches.",
            "Start the nodes by `swarm node`, give --ray-address, and leave --engine out.",
        )
    shares = [share or workers(settings, device) for device, share in settings.devices.items()]
    found: dict[str, dict[str, Any]] = {device: {"device": device} for device in settings.devices}
    for limit in SHARED:
        whole = getattr(settings, limit)
        for told, part in zip(found.values(), divide(whole or 0, shares), strict=True):
            told[limit] = None if whole is None else part
    if not all(told["budget"] for told in found.values()):
        raise UsageError(
            f"--budget {settings.budget}: too few trials for {settings.device}.", "Raise it, or give other shares."
        )
    if settings.name is not None:
        for device, told in found.items():
            told["name"] = f"{settings.name}-{device}"
    if "cpu" in found:
        found["cpu"]["shape"] = None  # kernels are timed on accelerators
    return found


def launch(settings: Settings, flags: Mapping[str, Any], signals: StopSignals, program: Sequence[str] = PROGRAM) -> int:
    """Run the campaigns to their ends, or until a signal stops them.

    Args:
        settings: what the launch is told.
        flags: the options of the command that said so.
        signals: of this process; both campaigns are told.
        program: runs a command of `swarm` whose arguments follow.

    Returns:
        The exit status: that of a campaign that failed, else 0.

    Raises:
        SwarmError: as for `parts`, and where the store cannot be made.
    """
    told = parts(settings)
    Store.open(settings.store, create=True).close()  # so that no two make it at once
    running = [
        subprocess.Popen(
            [*program, "launch", *_arguments({**flags, **part})],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,  # a signal comes from us, and once
        )
        for part in told.values()
    ]

    def stop() -> None:
        for process in running:
            process.send_signal(signal.SIGINT)

    signals.defer(stop)
    readers = [
        threading.Thread(target=_pass_on, args=(device, stream, tell))
        for device, process in zip(told, running, strict=True)
        for stream, tell in ((process.stdout, console.say), (process.stderr, console.note))
    ]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    codes = [process.wait() for process in running]
    if not any(codes):
        console.say("`swarm findings --campaign NAME` says of each finding on which of these devices it holds.")
    return max(code if code >= 0 else 128 - code for code in codes)


def _pass_on(device: str, stream: IO[str], tell: Callable[[str], None]) -> None:
    with stream:  # where nobody reads our lines any more, the campaign is to notice
        for line in stream:
            tell(f"{device:<5} {line.rstrip()}")


def _arguments(flags: Mapping[str, Any]) -> list[str]:
    return [
        part
        for name, value in flags.items()
        if value is not None
        for part in (f"--{name.replace('_', '-')}", str(value))
    ]
