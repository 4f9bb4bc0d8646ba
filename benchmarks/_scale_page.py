"""The page of the benchmark of scale: growth along each axis, exponents, a cluster of a thousand workers on paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

from benchmarks import _frame

WORKERS, SECONDS = 1_000, 5.0
"""The cluster on paper: so many workers, and trials of so many seconds."""
INLINE = 100 * 1024
"""Bytes up to which Ray carries a value inside a message instead of through its object store."""
LESSON = """\
Where a driver's CPU goes, by a profile of its thread with six parameters: half of it is the sampler, at 200 trials
and at 3,000. Optuna's TPE chooses each parameter alone and splits all trials anew into good and bad for each, which
the peer pays six times per trial and ours once (`one_trial_tpe.py`); it reads the constraints of every trial each
time, so trials inside the feasible region carry none. SQL comes next, then entering new trials into the sampler's
memory. Beyond 450 trials ours thins what the sampler reads. What else grew with the history was sorting and hiding
all of it for each proposal, and judging the findings of all earlier milestones again: both look at what is new alone
by now. Left is a scan of all trials per proposal for those that belong to the sampler's model.
"""


def page(record: _frame.Results) -> str:
    """The page of a record."""
    results = record["results"]
    return "\n".join(
        (
            _frame.heading(record, "Scale: how cost grows"),
            *_trials(results),
            LESSON,
            *_agents(results),
            *_clusters(results),
            *_fits(results["fits"]),
            *_estimate(results),
        )
    )


def _trials(results: _frame.Results) -> Iterator[str]:
    ours, peer = results["trials"]["ours"], results["trials"]["peer"]
    yield "## Trials\n"
    yield (
        f"Milliseconds per trial in consecutive parts of campaigns: trials that sleep "
        f"{results['trial_ms']['trials and drivers']} ms, six parameters, two workers, Optuna's TPE as sampler; what a "
        f"driver loads when it begins is in the first part. The peer is `study.ask` and `tell` of the same sampler in "
        f"memory, in one thread, with nothing run or stored: what anybody pays who asks TPE for each trial with all "
        f"trials before it. Ours thins what the sampler reads of more than 400 trials, so it can get under that. A "
        f"campaign ends after {results['patience']:.0f} s; a last part shows how far it came. Medians over all "
        f"campaigns, with extremes; the ratio is with its extremes over all pairs.\n"
    )
    rows = []
    for part in sorted({*ours, *peer}, key=lambda part: [int(end) for end in part.split("-")]):
        both = part in ours and part in peer
        ratio = _frame.times(_frame.ratio(ours[part], peer[part])) if both else ""
        rows.append((f"{part.replace('-', ' to ')}", _spread(ours.get(part, ())), _spread(peer.get(part, ())), ratio))
    yield _frame.table(("trials", "ours, ms", "sampler alone, ms", "ours is"), rows)
    runs = [
        ("ours" if one["who"] == "ours" else "sampler alone", one["asked"], one["done"], f"{one['ms']:.1f}",
         f"{one['cpu_ms']:.1f}")
        for one in results["trials"]["runs"]
    ]  # fmt: skip
    yield _frame.table(("campaigns", "asked for", "done", "wall, ms", "CPU of the driver, ms"), runs)


def _agents(results: _frame.Results) -> Iterator[str]:
    yield "## Models and layers\n"
    yield (
        f"CPU milliseconds of all built-in agents per proposal and per analysis (every ten trials), over "
        f"the second half of simulated campaigns of {results['simulated_trials']} trials; models of 12 layers, or two "
        f"models of more. Every model's default configurations come first and cost no thought, so with many models few "
        f"of these trials are proposals.\n"
    )
    for axis in ("models", "layers"):
        rows = [(count, _spread(one["proposal"]), _spread(one["analysis"])) for count, one in results[axis].items()]
        yield _frame.table((axis, "proposal, ms", "analysis, ms"), rows)


def _clusters(results: _frame.Results) -> Iterator[str]:
    yield "## Drivers and nodes\n"
    workers = max(map(int, results["nodes"]))
    yield (
        f"Campaigns of {results['shared_trials']} trials on a Ray cluster of several nodes on this machine, one worker "
        f"per node: drivers share one campaign in one SQLite file and {workers} workers (trials of "
        f"{results['trial_ms']['trials and drivers']} ms); one driver feeds more and more nodes (trials of "
        f"{results['trial_ms']['nodes']} ms, so that a node without overhead needs that per trial). The nodes share "
        f"this machine's cores, so this shows what coordination costs, not what more machines bring.\n"
    )
    for axis in ("drivers", "nodes"):
        rows = [(count, _spread(one["ms"]), _spread(one["cpu_ms"])) for count, one in results[axis].items()]
        yield _frame.table((axis, "wall per trial, ms", "CPU of all drivers per trial, ms"), rows)


def _fits(fits: dict[str, Any]) -> Iterator[str]:
    if not fits:
        return
    yield "## Exponents\n"
    yield (
        "Slopes of log cost on log size by least squares: 0 is a cost that does not grow, 1 one that grows in "
        "proportion, -1 one that is shared out perfectly. Parts of campaigns count at the geometric mean of "
        "their ends, the first part of each left out.\n"
    )
    rows = [(name, f"{one['exponent']:+.2f} ± {one['stderr']:.2f}", one["points"]) for name, one in fits.items()]
    yield _frame.table(("cost", "exponent ± standard error", "points"), rows)


def _estimate(results: _frame.Results) -> Iterator[str]:
    rate = WORKERS / SECONDS
    runs = [one for one in results["trials"]["runs"] if one["who"] == "ours"]
    long = max((one for one in runs if one["done"] == one["asked"]), key=lambda one: one["done"], default=runs[-1])
    # Without the sampler: the rehearsal that all nodes take part in proposes by number.
    axis = results["drivers"] or results["nodes"]
    bare = median(axis[min(axis, key=int)]["cpu_ms"])
    proposal = median(results["models"][min(results["models"], key=lambda count: abs(int(count) - 2))]["proposal"])
    store = results["store"]
    stored = sum(store[f"{name}, CPU us"] for name in ("proposals", "claims", "results")) / 1e3
    there, back = results["bytes"]["specification"], results["bytes"]["outcome"]
    yield f"## An estimate: {WORKERS:,} workers\n"
    yield (
        f"Computed from the numbers above, not measured: {WORKERS:,} workers with trials of {SECONDS:g} s finish "
        f"{WORKERS:,} / {SECONDS:g} = {rate:.0f} trials/s.\n"
    )
    lines = [
        f"**Driver.** Loop, store and Ray take {bare:.1f} ms of CPU per trial with one driver and proposals that cost "
        f"nothing: {_cores(rate, bare)}. With the sampler {long['cpu_ms']:.1f} ms over {long['done']:,} trials: "
        f"{_cores(rate, long['cpu_ms'])}.",
        f"**Proposals.** They are made one after another. One takes {proposal:.1f} ms with two models: at "
        f"most 1,000 / {proposal:.1f} = {1e3 / proposal:.0f} per second, which keeps {1e3 / proposal:.0f} x "
        f"{SECONDS:g} = {1e3 / proposal * SECONDS:.0f} workers busy. More workers want several campaigns, or longer "
        f"trials.",
        f"**Store.** Writing a trial from proposal to result takes {stored:.2f} ms of CPU in batches (part of the "
        f"above), at {store['trials']:,.0f} trials/s on this disk: {rate:.0f} / {store['trials']:,.0f} = "
        f"{100 * rate / store['trials']:.0f}% of what one SQLite file takes. A trial is about 13 rows (trial, "
        f"proposal, reservation, nine metrics, one series), so {rate:.0f} x 13 = {13 * rate:,.0f} rows/s.",
        f"**Objects.** A specification is {there:,} bytes and an outcome {back:,}: {rate:.0f} x "
        f"({there:,} + {back:,}) = {rate * (there + back) / 1e6:.2f} MB/s through the driver. "
        + (
            f"Both are under Ray's {INLINE // 1024} KiB, so they go inside messages and the object store stays empty."
            if max(there, back) < INLINE
            else "What is larger than 100 KiB goes through Ray's object store."
        ),
    ]
    yield "\n".join(f"- {line}" for line in lines) + "\n"


def _cores(rate: float, milliseconds: float) -> str:
    busy = rate * milliseconds / 1e3
    most = 1e3 / milliseconds
    return (
        f"{rate:.0f} x {milliseconds:.1f} ms = {busy:.1f} cores; one core drives {most:.0f} trials/s, or "
        f"{most * SECONDS:.0f} workers"
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
