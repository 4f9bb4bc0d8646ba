from hypothesis import given
from hypothesis import strategies as st

from swarm.experiments.protocols.simulated import instruct
from swarm.orchestrator.affinity import AffinityQueue


def filled(models: list[str], max_passed_over: int = 8) -> AffinityQueue:
    queue = AffinityQueue(max_passed_over)
    for trial_id, model in enumerate(models):
        queue.put(trial_id, instruct(trial_id, model=model))
    return queue


def test_a_worker_gets_the_oldest_trial_of_the_model_it_holds():
    queue = filled(["a", "b", "b", "a"])
    assert [queue.take("b")[0] for _ in range(2)] == [1, 2]


def test_a_worker_that_has_to_switch_leaves_models_that_others_hold():
    queue = filled(["a", "b"])
    assert queue.take(None, frozenset({"a"}))[0] == 1
    assert queue.take(None, frozenset({"a"}))[0] == 0


def test_nothing_waits_gives_none():
    assert AffinityQueue().take("a") is None


@given(
    models=st.lists(st.sampled_from("abc"), min_size=1, max_size=40),
    residents=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=40, max_size=40),
    max_passed_over=st.integers(0, 5),
)
def test_every_trial_runs_once_and_none_waits_for_ever(models, residents, max_passed_over):
    queue = filled(models, max_passed_over)
    taken: list[int] = []
    passed = 0
    while len(queue):
        oldest = min(set(range(len(models))) - set(taken))
        got, spec = queue.take(residents[len(taken)])
        assert spec.model == models[got]
        passed = 0 if got == oldest else passed + 1
        assert passed <= max_passed_over
        taken.append(got)
    assert sorted(taken) == list(range(len(models)))


@given(
    needed=st.lists(st.sampled_from(["", "x", "y"]), min_size=1, max_size=20),
    making=st.sampled_from([frozenset(), frozenset({"x"}), frozenset({"x", "y"})]),
)
def test_what_needs_something_in_the_making_waits_and_the_rest_does_not(needed, making):
    queue = AffinityQueue()
    for trial_id, needs in enumerate(needed):
        queue.put(trial_id, instruct(trial_id), needs)
    ready = [trial_id for trial_id, needs in enumerate(needed) if needs not in making]
    taken = []
    while (found := queue.take(None, in_the_making=making)) is not None:
        taken.append(found[0])
    assert taken == ready
    assert queue.drain() == [trial_id for trial_id in range(len(needed)) if trial_id not in ready]
    assert queue.take(None) is None
