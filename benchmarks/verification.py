"""Does `swarm verify` find planted faults of a cache, name the feature, and leave clean servers alone?

Faults are planted in a real server over a bundled model (`_faulty_server.py`): part of the cache is dropped, swapped,
rounded or repeated at a chunk border, when a prompt is reused, where prompts part, between clients, or at the end of a
sliding window. Clean servers are llama.cpp with several cache types, with and without flash attention, mlx_lm's server,
and `swarm serve`. Every run has a process and a core of its own.

`VERIFICATION_ONLY` is `clean` or `faults` for a part of the runs. `VERIFICATION_KEEP` names a file that keeps the rows
as they come; what it has is not run again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import _frame, _verification_page
from benchmarks._faulty_server import CHUNK, REMEMBERED, WHAT, WHERE

from swarm.kernels.errors import SwarmError, UsageError

TOKENS = 24
"""Tokens of a prompt: with what is generated they stay within a chunk."""
CLIENTS = 2
ROUNDS = 6
"""Rounds of a clean run at most; a faulty one may take more."""
FAULTY_ROUNDS = 16
MINUTES = 10.0
WINDOW = ("gemma3-270m", 512)
MODEL = "smollm2-135m"
MIN_SECONDS = 20.0
"""With less time than this no run is begun."""
Q8_0 = {"cache-type-k": "q8_0", "cache-type-v": "q8_0"}
LLAMA: Mapping[str, tuple[str, Mapping[str, int | str]]] = {
    "f16": (MODEL, {}),
    "q8_0": (MODEL, Q8_0),
    "q4_0": (MODEL, {"cache-type-k": "q4_0", "cache-type-v": "q4_0"}),
    "f16, no flash attention": (MODEL, {"flash-attn": "off"}),
    "K q8_0, no flash attention": (MODEL, {"cache-type-k": "q8_0", "flash-attn": "off"}),
    "q8_0, sliding windows": (WINDOW[0], Q8_0),
}
"""Model and flags of llama.cpp's caches."""
CLEAN: tuple[tuple[str, str, int], ...] = (
    ("llama.cpp", "f16", 8),
    ("llama.cpp", "q8_0", 8),
    ("llama.cpp", "q4_0", 8),
    ("llama.cpp", "f16, no flash attention", 6),
    ("llama.cpp", "K q8_0, no flash attention", 6),
    ("llama.cpp", "q8_0, sliding windows", 3),
    ("mlx-lm", "16 bit", 6),
    ("swarm serve", "K q8_0 V q8_0", 3),
    ("swarm serve", "K affine4/g64 V affine4/g64", 2),
)
"""Servers without a fault: which one, its cache, and in how many runs."""
FAULTS = tuple((where, WHAT[(2 * n + m) % len(WHAT)]) for n, where in enumerate(WHERE[1:]) for m in range(2))
"""Where and what: two at every place, so that all kinds are there."""


@dataclass(frozen=True)
class Case:
    """One run: a server with its cache, the fault planted in it, and the seed of the prompts."""

    server: str
    cache: str
    where: str
    what: str
    seed: int

    @property
    def model(self) -> str:
        """A model with windows where they are tested."""
        if self.server == "llama.cpp":
            return LLAMA[self.cache][0]
        return WINDOW[0] if self.where == "window" else MODEL

    @property
    def is_clean(self) -> bool:
        """Whether no fault is planted."""
        return self.where == "nowhere"


def cases(short: bool) -> list[Case]:
    """All runs that `VERIFICATION_ONLY` asks for: faults, those that take longest first, then clean servers in turns.

    Raises:
        UsageError: it asks for neither of both.
    """
    only = os.environ.get("VERIFICATION_ONLY", "")
    if only not in ("", "clean", "faults"):
        raise UsageError(f"VERIFICATION_ONLY is {only!r}.", "It may be clean or faults.")
    faults = [Case("stand-in", "16 bit", where, what, 1) for where, what in reversed(FAULTS)]
    clean = [Case(server, cache, "nowhere", "drop", 10 + n) for server, cache, runs in CLEAN for n in range(runs)]
    clean.sort(key=lambda case: case.seed)
    wanted = faults[-1:] if short else [*faults, *clean]
    return [case for case in wanted if not only or case.is_clean == (only == "clean")]


def run(case: Case, rounds: int, seconds: float) -> dict[str, Any] | None:
    """Verify one server: what was blamed, and what it took; None where the seconds were not enough."""
    from swarm.experiments.engines.probe.endpoint import Endpoint
    from swarm.experiments.engines.verify import features, verdict
    from swarm.experiments.engines.verify.answers import ServerUnderTest
    from swarm.experiments.text import Corpus

    with _serving(case) as url:
        endpoint = Endpoint(url)
        server = ServerUnderTest(endpoint.host, endpoint.engine, endpoint.model, REMEMBERED)
        tested = [features.REUSE, features.PARTED, features.SLOTS, features.border("chunk", "the next chunk", CHUNK)]
        if case.model == WINDOW[0]:
            tested[3] = features.border("window", "the end of the window", WINDOW[1])
        texts = features.Texts.measured(server, Corpus.open().text, case.seed)
        found = verdict.run(
            server, texts, tested, tokens=TOKENS, clients=CLIENTS, rounds=rounds, seconds=min(seconds, 60 * MINUTES)
        )
    if found.seconds > seconds and not found.blamed:
        return None
    return {
        **asdict(case),
        "blamed": [one.feature for one in found.blamed],
        "rounds": found.rounds,
        "seconds": found.seconds,
        "noise": found.noise,
        "largest": {one.feature: one.largest for one in found.suspicions},
        "exceeded": {one.feature: one.exceeded for one in found.suspicions},
    }


@contextmanager
def _serving(case: Case) -> Iterator[str]:
    """The URL of a server of a case, which is ended when the block is left."""
    if case.server == "llama.cpp":
        from swarm.experiments.engines.run.process import running
        from swarm.experiments.engines.run.startable import startable

        flags = {"ubatch-size": CHUNK, "batch-size": CHUNK, **LLAMA[case.cache][1]}
        with running(startable("llama.cpp"), case.model, flags, context=1024, clients=CLIENTS) as started:
            yield started.endpoint.url
        return
    from swarm.experiments.engines.run.process import free_port

    port = str(free_port())
    extra = [case.cache] if case.server == "swarm serve" else []
    line = [sys.executable, "-m", "benchmarks._faulty_server", case.model, port, case.where, case.what, *extra]
    process = subprocess.Popen(line, cwd=_frame.ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise SwarmError(f"the server of {case} ended with {process.wait()}.", "Run its command by hand.")
        yield url
    finally:
        process.kill()
        process.wait()


def _pinned(case: Case, cores: list[int], rounds: int, deadline: float) -> dict[str, Any] | None:
    """A run on one core, the first that no other run holds; None where it cannot be done by the deadline."""
    import fcntl
    import tempfile

    while (left := deadline - time.time()) > MIN_SECONDS:
        for core in cores:
            with (Path(tempfile.gettempdir()) / f"swarm-verification-{core}.lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                os.sched_setaffinity(0, {core})
                return run(case, rounds, left)
        time.sleep(0.5)
    return None


def measure(short: bool, tell: _frame.Tell) -> _frame.Results:
    """Run all cases side by side, one on a core; after `SWARM_BENCH_SECONDS` it ends with what is done."""
    from swarm.experiments.environment import git_revision

    cores = sorted(os.sched_getaffinity(0))
    begun = time.time()
    deadline = begun + float(os.environ.get("SWARM_BENCH_SECONDS", "1e9"))
    made = f"{datetime.now(UTC).date().isoformat()}, {git_revision()[:7] or 'unknown'}"
    wanted = cases(short)
    rows, failures = _kept(wanted), []
    done = {_case(row) for row in rows}
    rounds = {case: 1 if short else ROUNDS if case.is_clean else FAULTY_ROUNDS for case in wanted if case not in done}
    with ProcessPoolExecutor(len(cores), mp_context=get_context("forkserver")) as pool:
        waiting = {pool.submit(_pinned, case, cores, most, deadline): case for case, most in rounds.items()}
        for ended in as_completed(waiting):
            try:
                found = ended.result()
                if found is not None:
                    rows.append({**found, "made": made})
                    _keep(rows[-1])
                tell(str(found))
            except SwarmError as error:
                failures.append({**asdict(waiting[ended]), "error": str(error)})
                tell(str(failures[-1]))
    return {
        "tokens": TOKENS, "clients": CLIENTS, "rounds": ROUNDS, "seconds": time.time() - begun,
        "cores": len(cores), "wanted": len(wanted), "rows": rows, "failures": failures,
    }  # fmt: skip


def _kept(wanted: list[Case]) -> list[dict[str, Any]]:
    """The whole lines of the file of `VERIFICATION_KEEP` that are of wanted cases."""
    path = Path(os.environ.get("VERIFICATION_KEEP", os.devnull))
    return [row for row in _frame.whole_lines(path) if _case(row) in wanted]


def _keep(row: dict[str, Any]) -> None:
    with Path(os.environ.get("VERIFICATION_KEEP", os.devnull)).open("a") as file:
        file.write(json.dumps(row) + "\n")


def _case(row: Mapping[str, Any]) -> Case:
    return Case(**{field.name: row[field.name] for field in fields(Case)})


BENCHMARK = _frame.Benchmark(
    "verification", measure, _verification_page.page, ("xllamacpp",), join=_verification_page.joined
)

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
