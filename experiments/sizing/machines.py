"""What a machine offers: memory that a model can use, and memory bandwidth. By name, by size, or this one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib import resources
from typing import Literal

from pydantic import Field

from swarm.experiments.sizing import naming
from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.kernels.spec import FrozenModel

GIB = 1 << 30
Kind = Literal["apple", "gpu"]
# What Metal recommends as a working set: two thirds of the memory up to 32 GB, three quarters above.
SMALL_APPLE_SHARE, LARGE_APPLE_SHARE, LARGE_APPLE = 2 / 3, 3 / 4, 36
APPLE_NOTE = "Metal leaves part of it to the system; `sudo sysctl iogpu.wired_limit_mb=N` changes that"
UNKNOWN_NOTE = "memory bandwidth unknown: --bandwidth says it"
# Drivers report a few percent less than what is sold.
SAME_MEMORY = 0.1
"""Relative difference up to which an amount of memory is that of a known machine."""
SEVERAL = re.compile(r"^(\d{1,3})\s*x\s*(?=\S)", re.IGNORECASE)


class Machine(FrozenModel):
    """`memory` is what is built in, `usable` what weights and caches may take (bytes); `bandwidth` in bytes/s."""

    name: str
    memory: int = Field(gt=0)
    usable: int = Field(gt=0)
    bandwidth: float | None = Field(default=None, gt=0)
    note: str = ""


@cache
def table() -> dict[str, tuple[Kind, dict[float, float]]]:
    """The known machines by name: their kind, and the bandwidth (GB/s) that comes with each size of memory (GB)."""
    rows = tomllib.loads(resources.files(__package__).joinpath("machines.toml").read_text(encoding="utf-8"))
    kinds: tuple[Kind, ...] = ("apple", "gpu")
    return {
        name: (kind, {size: row["bandwidth"] for row in variants for size in row["memory"]})
        for kind in kinds
        for name, variants in rows[kind].items()
    }


def of_memory(gigabytes: float, bandwidth: float | None = None) -> Machine:
    """A machine that is no more than so much memory, all of it usable.

    Args:
        gigabytes: memory in GB; as everywhere for memory, 1 GB is 2^30 bytes.
        bandwidth: GB/s (10^9 bytes per second), None when unknown.

    Raises:
        UsageError: not a positive number.
    """
    _check("--memory", gigabytes)
    size = round(gigabytes * GIB)
    return Machine(name=f"{gigabytes:g} GB", memory=size, usable=size, bandwidth=_rate(bandwidth))


def find(name: str, gigabytes: float | None = None, bandwidth: float | None = None) -> Machine:
    """A machine by name: an Apple chip (`m4 max`), a GPU (`rtx 4090`), or several (`2x h200`).

    Args:
        name: as people write it.
        gigabytes: memory of one of them, needed when it is sold with several sizes.
        bandwidth: GB/s that takes the place of the data sheet's.

    Raises:
        UnknownNameError: no such machine, with the nearest names.
        UsageError: the memory is needed or does not exist.
    """
    several = SEVERAL.match(name.strip())
    count = int(several[1]) if several else 1
    if count < 1:
        raise UsageError(f"{name!r} is no machine at all.", "Give a count of at least 1.")
    found = naming.matches(name.strip()[several.end() if several else 0 :], table())
    if len(found) != 1:
        near = ", ".join(found or naming.nearest(name, table()))
        raise UnknownNameError("machine", name, f"{near}, ... or give --memory and --bandwidth")
    key, (kind, offered) = next(iter(found.items()))
    size = _size(key, offered, gigabytes)
    memory = round(count * size * GIB)
    return Machine(
        name=f"{key}, {size:g} GB" if count == 1 else f"{count} x {key}, {size * count:g} GB",
        memory=memory,
        usable=_usable(kind, memory // count) * count,
        bandwidth=_rate(bandwidth) or count * offered[size] * 1e9,
        note=APPLE_NOTE if kind == "apple" else "",
    )


def _usable(kind: Kind, memory: int) -> int:
    if kind != "apple":
        return memory
    return round(memory * (SMALL_APPLE_SHARE if memory < LARGE_APPLE * GIB else LARGE_APPLE_SHARE))


def _size(name: str, offered: dict[float, float], gigabytes: float | None) -> float:
    sizes = ", ".join(f"{size:g}" for size in sorted(offered))
    if gigabytes is None:
        if len(offered) == 1:
            return next(iter(offered))
        raise UsageError(f"{name} is sold with {sizes} GB of memory.", "Say which with --memory.")
    _check("--memory", gigabytes)
    if gigabytes not in offered:
        raise UsageError(f"{name} is not sold with {gigabytes:g} GB but with {sizes} GB.", "Correct --memory.")
    return gigabytes


def _check(option: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{option} is {value:g}.", "Give a positive number.")


def _rate(bandwidth: float | None) -> float | None:
    if bandwidth is None:
        return None
    _check("--bandwidth", bandwidth)
    return bandwidth * 1e9


def this(bandwidth: float | None = None) -> Machine:
    """The machine that runs this: its Apple chip, its first NVIDIA GPU, or its main memory without a bandwidth.

    Args:
        bandwidth: GB/s that takes the place of what is known of the machine.
    """
    found = _this()
    return found if bandwidth is None else found.model_copy(update={"bandwidth": _rate(bandwidth)})


def _this() -> Machine:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sys.platform == "darwin":
        return introduced(_ask("sysctl", "-n", "machdep.cpu.brand_string"), total)
    answer = _ask("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits").partition("\n")[0]
    name, _, megabytes = answer.rpartition(",")
    if name and megabytes.strip().isdigit():
        return introduced(name, int(megabytes) << 20)
    return Machine(name="this machine", memory=total, usable=total, note=UNKNOWN_NOTE)


def introduced(name: str, memory: int) -> Machine:
    """A machine that says its own name, such as `NVIDIA H100 80GB HBM3`, with the memory that it really has (bytes).

    A name that is not in the table gives the memory without a bandwidth.
    """
    found = naming.matches(re.sub(r"-?\d+ ?gb\b|sxm\d?|hbm\d?e?", "", name.lower()), table())
    kind: Kind = "apple" if name.startswith("Apple ") else "gpu"
    rate, note = None, UNKNOWN_NOTE
    if len(found) == 1:
        known, offered = next(iter(found.values()))
        nearest = min(offered, key=lambda size: abs(size * GIB - memory))
        if abs(nearest * GIB - memory) < SAME_MEMORY * memory:
            kind, rate, note = known, offered[nearest] * 1e9, APPLE_NOTE if known == "apple" else ""
    return Machine(name=name.strip(), memory=memory, usable=_usable(kind, memory), bandwidth=rate, note=note)


def _ask(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
