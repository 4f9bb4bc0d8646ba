"""Brings Ray up in the background and takes it down again, and says what a worker takes of a node."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from swarm.experiments.spec import Device
from swarm.kernels.errors import UsageError
from swarm.orchestrator.machine import gpus, workers_per_gpu
from swarm.orchestrator.worker import Worker

THREAD = "ray-host"
OBJECT_STORE_BYTES = 128 * 2**20
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "namespace": "swarm"}
ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

NODE_RESOURCES: Mapping[Device, Mapping[str, float]] = {
    "cpu": {"CPU": 1},
    "cuda": {"CPU": 1, "GPU": 1},
    "metal": {"CPU": 1, "metal": 1},
}
"""What one worker takes of its node. Ray finds cores and NVIDIA GPUs by itself; `swarm node` advertises Metal."""
MEMORY = "memory"


def resources(device: Device, memory: float = 0.0) -> dict[str, float]:
    """What a worker for a device takes: Ray's resources by name; `memory` in bytes, 0 to leave it out of account."""
    return {**NODE_RESOURCES[device], **({MEMORY: memory} if memory else {})}


def actor_options(wanted: Mapping[str, float]) -> dict[str, Any]:
    """Resources as options of a Ray actor."""
    own = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU", MEMORY)}
    return {
        "num_cpus": wanted.get("CPU", 0),
        "num_gpus": wanted.get("GPU", 0),
        **({"memory": int(wanted[MEMORY])} if MEMORY in wanted else {}),
        **({"resources": own} if own else {}),
    }


def room(nodes: Iterable[Mapping[str, Any]], wanted: Mapping[str, float]) -> int:
    """How many workers the nodes have room for, whoever else uses them: as `ray.nodes()` describes them.

    Workers without a GPU leave the nodes that have one to others, as Ray's scheduler does too, where there are others.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if "GPU" not in wanted:
        alive = [has for has in alive if not has.get("GPU") and has.get("CPU")] or alive
    return sum(min(int(has.get(name, 0) // amount) for name, amount in wanted.items()) for has in alive)


def sharing_gpus(
    wanted: Mapping[str, float], nodes: Iterable[Mapping[str, Any]], workers: int | None
) -> dict[str, float]:
    """What a worker takes of a node where workers share GPUs: the part of a GPU that lets as many run as are wanted.

    Args:
        wanted: what a worker takes that has a GPU to itself.
        nodes: as `ray.nodes()` describes them.
        workers: how many there are to be; None for as many as suit the cores beside each GPU.
    """
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("GPU", 0) >= 1]
    if "GPU" not in wanted or not alive:
        return dict(wanted)
    if workers is not None:
        each = -(-workers // int(sum(has["GPU"] for has in alive)))
    else:
        each = min(workers_per_gpu(int(has.get("CPU", 1) // has["GPU"])) for has in alive)
    return {**wanted, "GPU": 10_000 // each / 10_000}  # Ray counts in ten-thousandths


class Cluster:
    """Ray of this machine, or a connection to one that exists.

    Ray's start takes seconds, so a thread does it. The thread then stays: on Linux the processes that it started
    are told to die with the thread that started them.

    Args:
        wanted: what one worker takes of a node that shares no GPU, see `resources`.
        workers: how many there will be; None on a cluster that decides by its size.
        address: the cluster; None for Ray of this machine.
        on_ready: called from another thread when `ready` or `error` is set.
    """

    actor_class: type[Worker] = Worker

    def __init__(
        self, wanted: Mapping[str, float], workers: int | None, *, address: str | None, on_ready: Callable[[], None]
    ) -> None:
        self.wanted = dict(wanted)
        """What one worker takes of a node; known when `ready`."""
        self._workers = workers
        self._address = address
        self._on_ready = on_ready
        self._release = threading.Event()
        self._settled = threading.Event()
        self._thread = threading.Thread(target=self._host, name=THREAD, daemon=True)
        self.ready = False
        self.room = 0
        self.error: str | None = None
        if address is not None:
            check_address(address)

    def start(self) -> None:
        """Begin; `on_ready` is called from another thread when `ready` or `error` is set."""
        _prepare_environment(local=self._address is None)
        self._thread.start()

    def settle(self, timeout: float | None = None) -> None:
        """Wait until `ready` or `error` is set, for so many seconds at most."""
        self._settled.wait(timeout)

    def stop(self, timeout: float) -> None:
        """Disconnect, and end what was started here."""
        self._release.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _host(self) -> None:
        session: str | None = None
        try:
            session = self._connect()
            import ray

            nodes = ray.nodes()
            self.wanted = sharing_gpus(self.wanted, nodes, self._workers)
            # The cluster's own work is not counted, so some workers may have to wait.
            self.room = room(nodes, self.wanted)
            self.ready = True
        except BaseException as error:
            self.error = " ".join(str(error).split())[:300] or type(error).__name__
        self._settled.set()
        self._on_ready()
        if self.ready:
            self._release.wait()
            self._disconnect(session)

    def _connect(self) -> str | None:
        if self._address is not None:
            _settle_authentication(self._address)
            import ray

            ray.init(address=self._address, **QUIET)
            return None
        return self._start_here()

    def _start_here(self) -> str:
        """Start Ray on this machine; on a very busy one it gives up after seconds, so it gets a second chance."""
        import ray

        has = {name: amount * (self._workers or 1) for name, amount in self.wanted.items()}
        if "GPU" in has:
            has["GPU"] = min(max(1, gpus()), self._workers or 1)
        options = {
            **actor_options(has),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
            "_node_ip_address": "127.0.0.1",
            **QUIET,
        }
        try:
            context = ray.init(address="local", **options)
        except Exception:
            ray.shutdown()
            if self._release.is_set():
                raise
            context = ray.init(address="local", **options)
        return str(context.address_info["session_dir"])

    def _disconnect(self, session: str | None) -> None:
        import ray

        ray.shutdown()
        if session is not None:
            shutil.rmtree(session, ignore_errors=True)


def _prepare_environment(*, local: bool) -> None:
    """Set what Ray reads from the environment; its local processes inherit it."""
    # Without this, Ray would build a second environment for the workers when we run under `uv run`.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray prints its own account of every lost worker on our standard output; the trial's outcome says it better.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    logging.getLogger("ray").setLevel(logging.ERROR)
    if local:
        # One worker per core: threads of a BLAS would only get into each other's way.
        os.environ.update(dict.fromkeys(ONE_THREAD, "1"))


def _settle_authentication(address: str) -> None:
    """Use the token that is here if the cluster wants one.

    Ray finds that out by itself for a cluster that it finds, not for one that it is told; and where only one of both
    uses a token, every worker dies without a reason.
    """
    if address == "auto" or not _has_token() or "RAY_AUTH_MODE" in os.environ:
        return
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    without = subprocess.run(ask, env={**os.environ, "RAY_AUTH_MODE": "disabled"}, capture_output=True, check=False)
    os.environ["RAY_AUTH_MODE"] = "token" if without.returncode else "disabled"


def _has_token() -> bool:
    named = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)
    return bool(named) or (Path.home() / ".ray" / "auth_token").exists()


def lingers() -> bool:
    """Whether Ray is still being brought up or down: the interpreter's own ending would wait or crash."""
    return any(thread.name == THREAD for thread in threading.enumerate())


def hidden_paths() -> tuple[str, ...]:
    """The folders of this process that Ray would put on the workers' module path."""
    return str(Path.cwd()), str(Path(sys.argv[0]).resolve().parent)


def check_address(address: str) -> None:
    """Refuse an address that nobody answers on: Ray itself would end the process after a minute.

    Raises:
        UsageError: not `auto` or `host:port`, or no answer.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise UsageError(f"--ray-address {address}: not an address.", "Give host:port of the head node, or auto.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--ray-address {address}: no answer ({error}).", "Start Ray there (`ray start --head`), or correct it."
        ) from error
