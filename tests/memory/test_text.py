"""Whatever is handed in, what is stored is bounded and clean."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import complete, fail, finding, measurement, proposal

from swarm.memory import text
from swarm.memory.errors import StoreError
from swarm.memory.records import AgentCall, Summary

HOSTILE = "a\x00b\x1b[31mred\x9b\u202egnorw\ud800 \r\nnext\ttab " + "long " * 400_000

anything = st.text(st.characters(exclude_categories=()), max_size=300)


@given(anything, st.integers(1, 200))
def test_clean_is_bounded_printable_and_stable(value, limit):
    done = text.clean(value, limit)
    assert len(done) <= limit
    assert all(char in "\n\t" or (ord(char) >= 32 and not 0x7F <= ord(char) <= 0x9F) for char in done)
    done.encode()
    assert text.clean(done, limit) == done


@given(anything)
def test_clean_keeps_ordinary_text(value):
    ordinary = "".join(char for char in value if char.isprintable() and not 0x200E <= ord(char) <= 0x2069)
    if not any(char in ordinary for char in "\u061c\ufeff"):
        assert text.clean(ordinary, 1000) == ordinary


def test_names_are_one_line():
    assert text.name("  two\nlines\tand  blanks ") == "two lines and blanks"
    assert len(text.name(HOSTILE)) <= text.NAME


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | anything,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(anything, inner, max_size=4),
        max_leaves=20,
    )
)
def test_documents_are_json(value):
    json.dumps(text.document(value), allow_nan=False).encode()


def test_giant_documents_are_refused():
    with pytest.raises(StoreError, match="characters"):
        text.document({"x": ["y" * 1000] * 2000})


def test_hostile_text_goes_in_and_comes_out_harmless(store, campaign, run):
    note = HOSTILE[:3000].encode("utf-8", "replace").decode()
    trial = run(rationale=note)
    lease = store.queue.claim(store.propose(campaign.id, 1, proposal(1)).id, HOSTILE)
    fail(store, lease, HOSTILE, HOSTILE)
    identity = store.findings.upsert(campaign.id, finding(trial.id, statement=note, key=note[:150])).id
    summary = store.summaries.add(campaign.id, Summary(title="t", text=HOSTILE, evidence=(), author="scribe")).id
    store.summaries.review(summary, "rejected", HOSTILE, HOSTILE)
    store.events.add(campaign.id, HOSTILE, HOSTILE, {"note": HOSTILE[:1000], HOSTILE[:40]: [HOSTILE[:10]]})
    call = AgentCall(role="scribe", prompt_hash="x", model="m\x00", outcome="ok", message=note)
    store.agent_calls.add(campaign.id, call)
    stored = [
        store.trials.get(trial.id).rationale,
        store.trials.get(lease.trial_id).message,
        store.findings.get(identity).finding.statement,
        store.summaries.get(summary).summary.text,
        store.summaries.get(summary).note,
        store.events.list(newest=True, limit=1)[0].message,
        store.agent_calls.list()[0].message,
        store.proposals.get(trial.proposal_id).rationale,
    ]
    for value in stored:
        assert not set(value) & set("\x00\x1b\x9b\u202e\ud800\r")
        assert len(value) <= text.LONG
    assert "next\ttab" in stored[0]
    assert store.check() == []


def test_campaign_names_and_settings(store):
    from swarm.memory.records import Budget

    made = store.campaigns.create(
        "two\nlines\x1b", {"k\x00": float("nan"), "deep": [{"a": "\x07"}]}, Budget(trials=1), 0
    )
    assert made.name == "two lines"
    assert store.campaigns.get("two lines").settings == {"k": None, "deep": [{"a": ""}]}


def test_arrays_may_hold_gaps(store, add):
    lease = store.queue.claim(add().id, "one")
    result = measurement().model_copy(update={"arrays": {"layer_g": (1.0, float("nan"), 3.0)}})
    complete(store, lease, result)
    stored = store.trials.get(lease.trial_id).arrays["layer_g"]
    assert stored[0] == 1.0
    assert stored[1] != stored[1]
