"""`swarm review` as people use it: every number has its origin, and who said what and when is kept."""

import json

import pytest
from samples import complete, finding, measurement, proposal

from swarm.memory.records import Budget, Summary
from swarm.memory.store import Store

TEXT = """# What the swarm found

Of {fact:trials.complete} trials the best has a KLD of {trial:2:kld} at {trial:2:bits_per_value} bits.

| trial | KLD |
|---|---|
| {trial:1} | {trial:1:kld} |

- {finding:1:statement} \x1b[31m ({finding:1})
- {trial:77:kld} is gone.
"""


@pytest.fixture
def written(tmp_path):
    with Store.open(tmp_path / "swarm.db", create=True) as store:
        campaign = store.campaigns.create("night", {}, Budget(trials=5), 0)
        for number in range(3):
            record = store.propose(campaign.id, number, proposal(number))
            complete(store, store.queue.claim(record.id, "me"), measurement(kld=0.5 / (number + 1)))
        store.findings.upsert(campaign.id, finding(1, 3))
        for _ in range(2):
            store.summaries.add(campaign.id, Summary(title="Found", text=TEXT, evidence=(1, 2), author="llm:scribe"))
    return tmp_path


def test_every_number_says_where_it_comes_from(cli, written):
    out = cli("review", "1").out
    assert "Of 3 trials the best has a KLD of 0.25 [trial 2] at 4.5 [trial 2] bits." in out
    assert "| trial 1 | 0.5 |" in out
    assert "The KLD of alpha stopped falling." in out
    assert "[unresolved: there is no finished trial '77'.]" in out
    assert "\x1b" not in out
    assert any(line.split() == ["1", "1", "3"] for line in out.splitlines())
    found = {link["reference"]: link for link in json.loads(cli("review", "1", "--json").out)["references"]}
    assert found["trial:2:kld"] == {"reference": "trial:2:kld", "shown": "0.25", "trials": [2]}
    assert found["finding:1"]["trials"] == [1, 3]
    assert found["fact:trials.complete"]["trials"] == []


def test_verdicts_and_notes_are_kept_with_reviewer_and_time(cli, written):
    assert "accepted by Ana" in cli("review", "1", "--accept", "--reviewer", "Ana", "--note", "good").out
    assert "accepted by Bo" in cli("review", "1", "--note", "trial 2 again?", "--reviewer", "Bo").out
    assert cli("review", "2", "--reject").code == 0
    rows = {row["id"]: row for row in json.loads(cli("review", "--json").out)}
    assert (rows[1]["state"], rows[1]["reviewer"], rows[1]["note"]) == ("accepted", "Bo", "trial 2 again?")
    assert rows[1]["reviewed_at"] >= rows[1]["created_at"]
    assert rows[2]["state"] == "rejected"
    assert rows[2]["reviewer"]
    assert [row["id"] for row in json.loads(cli("review", "--state", "accepted", "--json").out)] == [1]
    assert cli("review", "--state", "pending").out == "No summaries.\n"
    with Store.open(written / "swarm.db", readonly=True) as store:
        assert [event.data["reviewer"] for event in store.events.list(1, kind="summary.accepted")] == ["Ana", "Bo"]


@pytest.mark.parametrize(("args", "said"), [(("9", "--accept"), "'9'"), (("--state", "odd"), "'odd'"), (("9",), "'9'")])
def test_what_is_not_there_gets_one_line(cli, written, args, said):
    done = cli("review", *args)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
