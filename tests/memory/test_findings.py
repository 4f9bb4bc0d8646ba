"""Findings, summaries, reviews and predictions: typed, referenced, searchable, with their history."""

from __future__ import annotations

import pytest
from samples import finding, proposal

from swarm.kernels.errors import UnknownNameError, UsageError
from swarm.memory.records import Effect, Prediction, Score, Summary


def test_upsert_updates_by_key(store, campaign, run):
    one, two = run(), run()
    effect = Effect(name="kld ratio", value=0.8, low=0.7, high=0.9)
    identity = store.findings.upsert(campaign.id, finding(one.id)).id
    assert store.findings.upsert(campaign.id, finding(one.id)) == store.findings.get(identity)
    assert store.findings.upsert(campaign.id, finding(one.id)).id == identity
    assert store.findings.get(identity).revision == 1
    changed = finding(one.id, two.id, status="confirmed", effect=effect)
    assert store.findings.upsert(campaign.id, changed).id == identity
    stored = store.findings.get(identity)
    assert stored.finding == changed
    assert stored.revision == 2
    assert [event.kind for event in store.events.list(campaign.id, kind="finding.")] == [
        "finding.new",
        "finding.confirmed",
    ]


def test_evidence_can_be_withdrawn_and_come_back(store, campaign, run):
    one, two = run(), run()
    for evidence in ((one.id, two.id), (two.id,), (one.id, two.id), ()):
        returned = store.findings.upsert(campaign.id, finding(*evidence))
        assert returned == store.findings.get(returned.id)
        assert returned.finding.evidence == evidence


def test_invented_or_unfinished_evidence_is_refused(store, campaign, add, run):
    done, waiting = run(), add()
    for wrong in (done.id + 1000, waiting.id):
        with pytest.raises(UsageError, match=str(wrong)):
            store.findings.upsert(campaign.id, finding(done.id, wrong))
        with pytest.raises(UsageError, match=str(wrong)):
            store.summaries.add(campaign.id, Summary(title="t", text="x", evidence=(wrong,), author="scribe"))
    assert store.findings.list() == []
    assert store.summaries.list() == []


STATEMENTS = {
    "keys": "Keys need more bits than values on gemma3-270m.",
    "angular": "Angular methods such as turboquant_mse fail where the scale is learned.",
    "depth": "The error compounds with depth; single layers hardly matter.",
}


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("keys", ["keys"]),
        ("KEY values", ["keys"]),
        ("turboquant_mse", ["angular"]),
        ("mse fail", ["angular"]),
        ("gemma3-270m", ["keys"]),
        ("learn", ["angular"]),
        ("depth layer", ["depth"]),
        ("keys depth", []),
        ("", []),
        ("'\" * ( ) : & | ! - AND NOT", []),
        ("NEAR(keys", []),
        ("statement:keys", []),
        ("50% of \x00 keys", []),
        ("x" * 10_000, []),
    ],
)
def test_search(store, campaign, words, found):
    for key, statement in STATEMENTS.items():
        store.findings.upsert(campaign.id, finding(key=key, statement=statement, models=()))
    assert [record.finding.key for record in store.findings.search(words)] == found


def test_search_follows_changes(store, campaign):
    store.findings.upsert(campaign.id, finding(key="a", statement="Penguins waddle."))
    store.findings.upsert(campaign.id, finding(key="a", statement="Albatrosses glide."))
    assert store.findings.search("penguin") == []
    assert len(store.findings.search("albatross")) == 1


def test_reviews_keep_their_history(store, campaign, run):
    trial = run()
    text = "KLD fell to {trial:1:kld}."
    added = store.summaries.add(campaign.id, Summary(title="End", text=text, evidence=(trial.id,), author="scribe"))
    assert store.summaries.list(state="pending") == [added]
    identity = added.id
    store.summaries.review(identity, "rejected", "ada", "too short")
    reviewed = store.summaries.review(identity, "accepted", "bob", "fine\x1b[31m now")
    assert (reviewed.summary.state, reviewed.reviewer, reviewed.note) == ("accepted", "bob", "fine[31m now")
    assert reviewed.summary.evidence == (trial.id,)
    assert reviewed.reviewed_at is not None
    assert store.query("SELECT reviewer, state FROM reviews ORDER BY id").rows == [
        ("ada", "rejected"),
        ("bob", "accepted"),
    ]
    with pytest.raises(UnknownNameError):
        store.summaries.review(99, "accepted", "ada")
    with pytest.raises(UsageError):
        store.summaries.review(identity, "fine", "ada")


def test_predictions_are_registered_before_and_scored_after(store, campaign, run):
    reference = run()
    prediction = Prediction(metric="kld", comparator="<=", threshold=0.8, reference=reference.id)
    trial = run(prediction=prediction)
    assert (trial.prediction, trial.verdict) == (prediction, "open")
    assert [(record.trial_id, record.verdict) for record in store.predictions.list()] == [(trial.id, "open")]
    store.predictions.score(trial.id, Score(verdict="confirmed", observed=0.7, low=0.6, high=0.79))
    assert store.trials.get(trial.id).verdict == "confirmed"
    (scored,) = store.predictions.list(campaign.id)
    assert (scored.observed, scored.low, scored.high, scored.proposer) == (0.7, 0.6, 0.79, "tpe")
    with pytest.raises(UnknownNameError):
        store.predictions.score(reference.id, Score(verdict="refuted"))


def test_prediction_about_an_invented_trial_is_refused(store, campaign):
    prediction = Prediction(metric="kld", comparator="<=", threshold=0.8, reference=12345)
    with pytest.raises(UsageError, match="12345"):
        store.propose(campaign.id, 0, proposal(prediction=prediction))
    with pytest.raises(UsageError, match="777"):
        store.propose(campaign.id, 0, proposal(parents=(777,)))
    assert store.trials.list() == []
    assert store.check() == []


def test_proposals_are_remembered_with_their_trials(store, campaign):
    trial = store.propose(campaign.id, 0, proposal(rationale="why"))
    found = store.proposals.get(trial.proposal_id)
    assert (found.trial_id, found.rationale, found.refused) == (trial.id, "why", "")
    with pytest.raises(UnknownNameError):
        store.proposals.get(999)
