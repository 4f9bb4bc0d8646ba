"""The Ray pool with real workers: results, faults, replacement, affinity."""

from swarm.experiments.protocols.simulated import Fault, instruct
from swarm.experiments.spec import Failure, Measurement
from swarm.orchestrator.pool import Pool


def run(pool: Pool, *specs) -> dict[int, Measurement | Failure]:
    for trial_id, spec in enumerate(specs):
        pool.submit(trial_id, spec)
    results: dict[int, Measurement | Failure] = {}
    while len(results) < len(specs):
        results |= dict(pool.collect(30.0))
    return results


def test_every_trial_ends_once_with_its_own_result(pool):
    results = run(pool, *(instruct(number) for number in range(20)))
    assert all(isinstance(result, Measurement) for result in results.values())
    values = [results[trial_id]["kld"] for trial_id in range(20)]
    assert len(set(values)) == 20
    again = run(pool, *(instruct(number) for number in range(20)))
    assert [again[trial_id]["kld"] for trial_id in range(20)] == values


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
    for trial_id, kind in enumerate(faults.values()):
        assert isinstance(results[trial_id], Failure)
        assert results[trial_id].kind == kind
        assert results[trial_id].message
    assert pool.restarts == restarts


def test_a_crash_costs_one_trial_and_the_worker_is_replaced(pool):
    restarts = pool.restarts
    results = run(pool, instruct(0, Fault.CRASH), *(instruct(number) for number in range(1, 9)))
    assert results.pop(0).kind == "crash"
    assert all(isinstance(result, Measurement) for result in results.values())
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
        order += pool.collect(30.0)
    *others, (trial_id, result) = order
    assert (trial_id, result.kind) == (0, "timeout")
    assert all(isinstance(other, Measurement) for _, other in others)


def test_workers_keep_to_their_model(pool):
    while pool.up < pool.workers:
        pool.collect(30.0)
    specs = [instruct(number, model="ab"[number // 2 % 2], milliseconds=20) for number in range(40)]
    run(pool, instruct(100, model="a"), instruct(101, model="b"))
    switches = pool.switches
    for trial_id, spec in enumerate(specs[:8]):
        pool.submit(trial_id, spec)
    handed, ended = 8, 0
    while ended < len(specs):
        for _ in pool.collect(30.0):
            ended += 1
            if handed < len(specs):
                pool.submit(handed, specs[handed])
                handed += 1
    assert pool.switches - switches <= len(specs) // 4


def test_what_was_not_begun_can_be_withdrawn(pool):
    for number in range(6):
        pool.submit(number, instruct(number, milliseconds=200))
    withdrawn = pool.withdraw()
    ended = []
    while pool.running:
        ended += [trial_id for trial_id, _ in pool.collect(30.0)]
    assert sorted(withdrawn + ended) == list(range(6))
    assert len(withdrawn) >= 4


def test_waking_ends_waiting_without_a_result(pool):
    pool.wake()
    assert pool.collect(60.0) == []
