"""Does `swarm verify` find planted faults of a cache, name the feature, and leave clean servers alone?

Faults are planted in a real server over a bundled model (`_faulty_server.py`): part of the cache is dropped, swapped,
rounded or repeated at a chunk border, when a prompt is reused, where prompts part, between clients, or at the end of a
sliding window. Clean servers are llama.cpp with several cache types, mlx_lm's server, and `swarm serve`. Every run has
a process and a core of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks import _frame
from benchmarks._faulty_server import CHUNK, REMEMBERED, WHAT, WHERE

from swarm.kernels.errors import SwarmError

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
CLEAN: tuple[tuple[str, str, int], ...] = (
    ("llama.cpp", "f16", 10),
    ("llama.cpp", "q8_0", 10),
    ("llama.cpp", "q4_0", 10),
    ("mlx-lm", "16 bit", 10),
    ("swarm serve", "K q8_0 V q8_0", 5),
    ("swarm serve", "K affine4/g64 V affine4/g64", 5),
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
        """A model with windows where they are at fault."""
        return WINDOW[0] if self.where == "window" else MODEL


def cases(short: bool) -> list[Case]:
    """All runs: faults, those that take longest first, then clean servers in turns."""
    faults = [Case("stand-in", "16 bit", where, what, 1) for where, what in reversed(FAULTS)]
    clean = [Case(server, cache, "nowhere", "drop", 10 + n) for server, cache, runs in CLEAN for n in range(runs)]
    clean.sort(key=lambda case: case.seed)
    return faults[-1:] if short else [*faults, *clean]


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
        if case.where == "window":
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

        flags: dict[str, int | str] = {"ubatch-size": CHUNK, "batch-size": CHUNK}
        if case.cache != "f16":
            flags |= {"cache-type-k": case.cache, "cache-type-v": case.cache}
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
    cores = sorted(os.sched_getaffinity(0))
    begun = time.time()
    deadline = begun + float(os.environ.get("SWARM_BENCH_SECONDS", "1e9"))
    wanted = cases(short)
    rows, failures = [], []
    with ProcessPoolExecutor(min(len(cores), len(wanted)), mp_context=get_context("forkserver")) as pool:
        rounds = {case: 1 if short else ROUNDS if case.where == "nowhere" else FAULTY_ROUNDS for case in wanted}
        waiting = {pool.submit(_pinned, case, cores, rounds[case], deadline): case for case in wanted}
        for done in as_completed(waiting):
            try:
                found = done.result()
                rows += [] if found is None else [found]
                tell(str(found))
            except SwarmError as error:
                failures.append({**asdict(waiting[done]), "error": str(error)})
                tell(str(failures[-1]))
    return {
        "tokens": TOKENS, "clients": CLIENTS, "rounds": ROUNDS, "seconds": time.time() - begun,
        "cores": len(cores), "wanted": len(wanted), "rows": rows, "failures": failures,
    }  # fmt: skip


def page(record: _frame.Results) -> str:
    """The page: clean servers, faults, goals."""
    results = record["results"]
    clean = [row for row in results["rows"] if row["where"] == "nowhere"]
    faulty = [row for row in results["rows"] if row["where"] != "nowhere"]
    named = [row for row in faulty if row["where"] in row["blamed"]]
    blamed = [row for row in clean if row["blamed"]]
    failed = len(results["failures"])
    undone = results["wanted"] - len(results["rows"]) - failed
    return "\n".join(
        (
            _frame.heading(record, "Verification"),
            f"`swarm verify` against real servers over bundled models: prompts of {results['tokens']} tokens, "
            f"{results['clients']} clients, chunks of {CHUNK} tokens, a process and a core for each run. "
            f"{results['seconds']:.0f} s in all on {results['cores']} cores; {undone} runs were not done in the time "
            f"given, {failed} failed.\n",
            "## Clean servers\n",
            f"At most {results['rounds']} rounds each, fewer where those left could blame nothing any more. Noise is "
            "the largest difference between the same positions generated and read as part of a prompt; the last column "
            "is the largest difference that a feature made.\n",
            _frame.table(("server", "cache", "runs", "blamed", "seconds", "noise, nat", "largest, nat"), _clean(clean)),
            "## Planted faults\n",
            "Each hurts 8 tokens of every second layer.\n",
            _frame.table(
                ("fault", "blamed", "rounds", "seconds", "noise, nat", "difference, nat"), map(_fault, faulty)
            ),
            "## The goals\n",
            _frame.said(
                "9 of 10 faults found and named within ten minutes",
                bool(faulty) and len(named) >= 0.9 * len(faulty),
                f"{len(named)} of {len(faulty)}",
            ),
            _frame.said("no clean run of 50 blamed", len(clean) >= 50 and not blamed, f"{len(blamed)} of {len(clean)}"),
            "",
        )
    )


def _clean(rows: list[dict[str, Any]]) -> Iterator[tuple[object, ...]]:
    for server, cache, _ in CLEAN:
        found = [row for row in rows if (row["server"], row["cache"]) == (server, cache)]
        if found:
            yield (
                server,
                cache,
                len(found),
                sum(bool(row["blamed"]) for row in found),
                f"{max(row['seconds'] for row in found):.0f}",
                f"{max(row['noise'] for row in found):.2g}",
                f"{max(max(row['largest'].values()) for row in found):.2g}",
            )


def _fault(row: dict[str, Any]) -> tuple[object, ...]:
    name = f"{row['what']}, {row['where']}"
    values = (", ".join(row["blamed"]) or "nothing", row["rounds"], f"{row['seconds']:.0f}", f"{row['noise']:.2g}")
    return (name, *values, f"{row['largest'].get(row['where'], 0.0):.2g}")


BENCHMARK = _frame.Benchmark("verification", measure, page, ("xllamacpp",))

if __name__ == "__main__":
    raise SystemExit(BENCHMARK.main())
