"""The Ray pool with real workers: results, faults, replacement, affinity."""

from itertools import pairwise

from swarm.experiments.protocols.noop import Fault, instruct
from swarm.orchestrator.pool import Pool, Result


def run(pool: Pool, *specs) -> dict[int, Result]:
    for key, spec in enumerate(specs):
        pool.submit(key, spec)
    results: dict[int, Result] = {}
    while len(results) < len(specs):
        results |= {result.key: result for result in pool.collect(30.0)}
    return results


def test_every_trial_ends_once_with_its_own_result(pool):
    results = run(pool, *(instruct(number) for number in range(20)))
    values = [results[key].outcome.measurement["kld"] for key in range(20)]
    assert all(result.outcome.kind == "ok" for result in results.values())
    assert len(set(values)) == 20
    again = run(pool, *(instruct(number) for number in range(20)))
    assert [again[key].outcome.measurement["kld"] for key in range(20)] == values


def test_a_failure_is_told_by_its_kind_and_the_worker_goes_on(pool):
    restarts = pool.restarts
    faults = {
        Fault.NAN: "nan",
        Fault.OOM: "oom",
        Fault.DISK_FULL: "disk_full",
        Fault.ERROR: "error",
        Fault.BUG: "error",
    }
    results = run(pool, *(instruct(number, fault) for number, fault in enumerate(faults)))
    for key, kind in enumerate(faults.values()):
        assert results[key].outcome.kind == kind
        assert results[key].outcome.message
        assert results[key].outcome.measurement is None
    assert pool.restarts == restarts


def test_a_crash_costs_one_trial_and_the_worker_is_replaced(pool):
    restarts = pool.restarts
    results = run(pool, instruct(0, Fault.CRASH), *(instruct(number) for number in range(1, 9)))
    assert [results[key].outcome.kind for key in range(9)] == ["crash"] + ["ok"] * 8
    assert pool.restarts == restarts + 1
    assert pool.workers == 2


def test_a_hang_ends_at_the_time_limit_and_the_others_do_not_wait_for_it(pool):
    while pool.up < pool.workers:
        pool.collect(30.0)
    pool.submit(0, instruct(0, Fault.HANG))
    for number in range(1, 9):
        pool.submit(number, instruct(number))
    order = []
    while len(order) < 9:
        order += [(result.key, result.outcome.kind) for result in pool.collect(30.0)]
    assert order[-1] == (0, "timeout")
    assert {kind for _, kind in order[:-1]} == {"ok"}


def test_workers_keep_to_their_model(pool):
    while pool.up < pool.workers:
        pool.collect(30.0)
    specs = [instruct(number, model="ab"[number // 2 % 2], milliseconds=20) for number in range(40)]
    for key, spec in enumerate(specs[:8]):
        pool.submit(key, spec)
    had: dict[int, list[str]] = {0: [], 1: []}
    handed = 8
    while sum(map(len, had.values())) < len(specs):
        for result in pool.collect(30.0):
            had[result.worker].append(specs[result.key].model)
            if handed < len(specs):
                pool.submit(handed, specs[handed])
                handed += 1
    switches = sum(a != b for models in had.values() for a, b in pairwise(models))
    assert switches <= len(specs) // 4


def test_what_was_not_begun_can_be_withdrawn(pool):
    for number in range(6):
        pool.submit(number, instruct(number, milliseconds=200))
    withdrawn = pool.withdraw()
    ended = []
    while pool.running:
        ended += [result.key for result in pool.collect(30.0)]
    assert sorted(withdrawn + ended) == list(range(6))
    assert len(withdrawn) >= 4


def test_waking_ends_waiting_without_a_result(pool):
    pool.wake()
    assert pool.collect(60.0) == []
