"""The lineage graph: edges lead forward in time, circles cannot arise, influence is counted."""

from __future__ import annotations

import random
from functools import partial

import networkx as nx
import pytest
from samples import finding, first_campaign, run_trial
from sqlalchemy import text

from swarm.kernels.errors import UnknownNameError
from swarm.memory import lineage
from swarm.memory.errors import StoreError
from swarm.memory.records import Prediction, Summary


@pytest.fixture
def story(store):
    """A finding leads to a trial that becomes evidence of that same finding, and of a second one."""
    campaign = first_campaign(store)
    run = partial(run_trial, store, campaign.id)
    first = run()
    plateau = store.findings.upsert(campaign.id, finding(first.id, key="plateau")).id
    prediction = Prediction(metric="kld", comparator="<=", threshold=0.9, reference=first.id)
    second = run(parents=(plateau,), prediction=prediction)
    store.findings.upsert(campaign.id, finding(first.id, second.id, key="plateau", status="confirmed"))
    contrast = store.findings.upsert(campaign.id, finding(second.id, key="contrast")).id
    third = run(parents=(plateau, contrast))
    summary = store.summaries.add(campaign.id, Summary(title="End", text="x", evidence=(third.id,), author="scribe")).id
    store.summaries.review(summary, "accepted", "ada")
    return first, second, third, plateau, contrast


def test_edges(store, story):
    first, second, third, plateau, contrast = story
    made = lineage.graph(store)
    assert nx.is_directed_acyclic_graph(made)
    for source, target in (
        (f"trial:{first.id}", f"finding:{plateau}@1"),
        (f"finding:{plateau}@1", f"proposal:{second.proposal_id}"),
        (f"trial:{first.id}", f"proposal:{second.proposal_id}"),
        (f"proposal:{second.proposal_id}", f"trial:{second.id}"),
        (f"trial:{second.id}", f"finding:{plateau}@2"),
        (f"finding:{plateau}@1", f"finding:{plateau}@2"),
        (f"finding:{plateau}@2", f"proposal:{third.proposal_id}"),
        (f"finding:{contrast}@1", f"proposal:{third.proposal_id}"),
        (f"trial:{third.id}", "summary:1"),
        ("summary:1", "review:1"),
    ):
        assert made.has_edge(source, target), (source, target)


def test_ancestors_and_descendants(store, story):
    first, second, _, plateau, contrast = story
    made = lineage.graph(store)
    assert f"trial:{first.id}" in lineage.ancestors(made, "review:1")
    assert f"trial:{second.id}" in lineage.descendants(made, f"finding:{plateau}")
    assert lineage.ancestors(made, f"proposal:{first.proposal_id}") == []
    assert f"finding:{contrast}@1" not in lineage.ancestors(made, f"trial:{second.id}")
    with pytest.raises(UnknownNameError):
        lineage.ancestors(made, "trial:999")


def test_influence(store, story):
    _, _, _, plateau, contrast = story
    found = {entry.finding_id: entry for entry in lineage.influential(lineage.graph(store))}
    assert (found[plateau].trials, found[plateau].proposals, found[plateau].findings) == (2, 2, 1)
    assert (found[contrast].trials, found[contrast].findings) == (1, 0)
    assert next(iter(found)) == plateau


@pytest.mark.parametrize("seed", range(3))
def test_no_order_of_operations_makes_a_circle(store, campaign, run, seed):
    rng = random.Random(seed)
    trials, keys = [run()], {}
    for step in range(25):
        if rng.random() < 0.5:
            parents = tuple(rng.sample(sorted(keys.values()), min(len(keys), rng.randint(0, 3))))
            reference = rng.choice(trials).id
            prediction = Prediction(metric="kld", comparator="<=", threshold=1, reference=reference)
            trials.append(run(parents=parents, prediction=prediction))
        else:
            key = f"k{rng.randint(0, 3)}"
            evidence = {rng.choice(trials).id for _ in range(rng.randint(1, 4))}
            keys[key] = store.findings.upsert(campaign.id, finding(*evidence, key=key, statement=f"at step {step}")).id
    assert nx.is_directed_acyclic_graph(lineage.graph(store))


def test_tampering_is_noticed(store, story):
    second = story[1]
    with store.database.write() as connection:
        connection.execute(text("UPDATE evidence SET since = 1 WHERE trial_id = :t"), {"t": second.id})
    with pytest.raises(StoreError, match=r"circle.*finding"):
        lineage.graph(store)


def test_dot_and_graphml(store, campaign, run, tmp_path):
    trial = run(rationale='quote " and\nnewline \\')
    store.findings.upsert(campaign.id, finding(trial.id, statement='<b>&"quoted"</b>'))
    made = lineage.graph(store, campaign.id)
    dot = lineage.to_dot(made)
    assert dot.startswith("digraph")
    assert dot.count("->") == made.number_of_edges()
    path = tmp_path / "lineage.graphml"
    path.write_text(lineage.to_graphml(made))
    again = nx.read_graphml(path)
    assert set(again.nodes) == set(made.nodes)
    assert again.nodes["finding:1@1"]["label"] == '<b>&"quoted"</b>'
