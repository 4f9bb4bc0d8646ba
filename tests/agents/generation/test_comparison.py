"""A plateau on one model starts a comparison of models by design, and its trail leads from it to findings."""

from __future__ import annotations

import pytest

from swarm.agents.settings import AgentSettings

SETTINGS = AgentSettings(shares={"comparison": 1.0, "cause": 0.0, "depth": 0.0, "attention": 0.0, "design": 0.0})


def still(make_lab, **fields):
    """A laboratory in which the plain 3-bit cache is hard to beat; rotated keys are worse, on alpha alone."""

    def log_kld(spec):
        alike = spec.kv.key.method == "affine" and spec.layers is None
        return -3.0 - 1.5 * alike + 0.7 * (spec.model == "alpha" and spec.kv.key.rotation == "hadamard")

    lab = make_lab(**fields)
    lab.log_kld = log_kld
    return lab


def trails(history):
    """Plateaus that led to trials, each with these and with the findings that rest on them by a third or more."""
    for plateau in history.findings:
        trials = [r for r in history.records if plateau.finding.kind == "plateau" and plateau.id in r.parents]
        ids = {r.id for r in trials}
        resting = [f for f in history.findings if f is not plateau and share_from(f.finding.evidence, ids) >= 1 / 3]
        if trials:
            yield plateau, trials, resting


def share_from(evidence, ids):
    return len(ids & set(evidence)) / len(set(evidence)) if evidence else 0.0


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_plateau_leads_to_the_same_trials_on_every_model_and_to_findings(make_lab, infos, simulate, seed):
    run = simulate(still(make_lab, seed=seed), infos, 130, seed=seed, settings=SETTINGS)
    found = list(trails(run.history))
    assert found
    for _, trials, findings in found:
        question = trials[0].rationale
        assert "stand" in question
        assert question.endswith("does that matter as much on beta?")
        assert {r.proposer for r in trials} == {"comparison"}
        assert any(f.finding.status == "confirmed" for f in findings)
    _, trials, findings = max(found, key=lambda one: len(one[1]))
    by_model = {info.name: {r.spec.kv for r in trials if r.spec.model == info.name} for info in infos}
    assert by_model["alpha"] == by_model["beta"]
    assert len(by_model["alpha"]) == 4
    assert any(f.finding.kind == "contrast" and "hadamard" in f.finding.statement for f in findings)


def test_one_model_alone_is_compared_with_nothing(make_lab, infos, simulate):
    run = simulate(still(make_lab), infos[:1], 90, settings=SETTINGS)
    assert "comparison" not in {r.proposer for r in run.records}
    assert list(trails(run.history)) == []
