"""Results of an older version are kept and marked, and are another experiment than those of the present one."""

import pytest
from samples import complete, measurement, proposal

from swarm.experiments.protocols.base import protocol
from swarm.kernels.quantizers.base import method


def test_trials_of_an_older_protocol_are_marked(store, run, raise_version):
    old = run(kld=0.1)
    raise_version(type(protocol("quality")))
    assert store.trials.get(old.id) == old.model_copy(update={"outdated": True})
    assert not old.outdated


def test_only_trials_of_a_changed_method_are_marked(store, run, raise_version):
    affine, plain = run(), run(kv={})
    raise_version(method("affine"))
    assert [record.outdated for record in store.trials.list()] == [True, False]
    assert [record.id for record in store.trials.list()] == [affine.id, plain.id]


def test_the_same_specification_is_another_experiment_under_a_new_version(store, run, raise_version):
    old = run(seed=5)
    raise_version(type(protocol("quality")))
    new = run(seed=5)
    assert new.spec == old.spec
    assert new.fingerprint != old.fingerprint
    assert [record.outdated for record in store.trials.list()] == [True, False]
    assert store.check() == []


def test_a_front_holds_results_of_one_version_of_the_protocol(store, run, raise_version):
    old = run(kld=0.1, bits_measured=4.0)
    raise_version(type(protocol("quality")))
    new = run(kld=0.5, bits_measured=5.0)
    assert store.query("SELECT trial_id, protocol_version FROM pareto ORDER BY 1").rows == [(old.id, 1), (new.id, 2)]
    assert store.query("SELECT trial_id, limit_below FROM best_per_model").rows == [(old.id, 1e9), (new.id, 1e9)]
    assert store.check() == []


def test_models_are_compared_within_a_version(store, run, raise_version):
    run(model="alpha", seed=0)
    raise_version(method("affine"))
    run(model="beta", seed=0)
    assert store.query("SELECT * FROM transfer").rows == []
    run(model="alpha", seed=0)
    assert len(store.query("SELECT * FROM transfer").rows) == 1


@pytest.mark.parametrize("planned_again", [False, True])
def test_a_waiting_trial_runs_with_the_versions_of_whoever_claims_it(
    store, campaign, add, raise_version, planned_again
):
    waiting = add(seed=3)
    raise_version(type(protocol("quality")))
    assert store.trials.get(waiting.id).outdated
    if planned_again:
        store.propose(campaign.id, 1, proposal(seed=3))
    lease = store.queue.claim_next(campaign.id, "new")
    complete(store, lease, measurement())
    found = store.trials.get(waiting.id)
    assert not found.outdated
    assert (found.fingerprint == waiting.fingerprint) == planned_again
    assert store.check() == []


def test_a_proposal_from_outside_is_run_once_more_under_a_new_version(store, campaign, raise_version):
    store.external_proposals.add(campaign.id, proposal(seed=3))
    store.propose(campaign.id, 0, proposal(seed=3))
    assert store.external_proposals.waiting(campaign.id) == []
    raise_version(type(protocol("quality")))
    assert store.external_proposals.waiting(campaign.id) == [proposal(seed=3)]
