"""Times of kernels belong to formats; the front has three objectives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.agents.analysis.speed import contexts, formats, front, timed, timed_results
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.agents.writing.references import Resolver
from swarm.agents.writing.summary import summarise
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal


def times(**microseconds):
    names = {f"decode_us_at_{c}": us for c, us in microseconds.items()}
    names |= {f"decode_us_sdpa16_at_{c}": 100.0 for c in microseconds}
    return {name: Metric(name=name, value=value, unit="us") for name, value in names.items()}


def made(lab, entries):
    """Records of (configuration, protocol, further metrics), in order."""
    records = []
    for number, (kv, protocol, metrics) in enumerate(entries):
        spec = TrialSpec(model="alpha", kv=KVSpec.parse(kv), protocol=protocol)
        record = lab.run(number, Proposal(spec=spec, proposer="test"))
        records.append(record.model_copy(update={"metrics": {**record.metrics, **metrics}}))
    return records


def test_what_no_kernel_reads_is_no_part_of_the_formats():
    plain = KVSpec.parse("K affine4/g64 V q8_0")
    for same in ("K affine4/g64+learned V q8_0 sink4 recent32", "K affine4/g64 V q8_0 recent128"):
        assert formats(KVSpec.parse(same)) == plain
    for other in ("K affine4/g64+hadamard V q8_0", "K affine4/g64 V q8_0 [layers 0: K q8_0]", "K affine3/g64 V q8_0"):
        assert formats(KVSpec.parse(other)) != plain


def test_the_newest_timing_of_a_model_counts(make_lab):
    first, second = times(**{"8192": 50.0}), times(**{"8192": 40.0, "131072": 70.0})
    records = made(make_lab(), [("K q8_0 V q8_0", "attention", first), ("K q8_0 V q8_0 sink4", "attention", second)])
    ((_, record),) = timed(records).items()
    assert (record.id, contexts(record)) == (2, (8_192, 131_072))
    assert timed([record.model_copy(update={"outdated": True})]) == {}
    assert contexts(made(make_lab(), [("K q8_0 V q8_0", "attention", {})])[0]) == ()


def test_the_front_of_loss_bits_and_time_is_told_in_the_summary(make_lab):
    entries = [
        ("K affine8/g64 V affine8/g64", "quality", {}),
        ("K affine4/g64 V affine4/g64", "quality", {}),
        ("K affine4/g64 V affine4/g64 sink4", "quality", {}),
        ("K affine3/g64 V affine3/g64", "quality", {}),
        ("K affine8/g64 V affine8/g64", "attention", times(**{"131072": 80.0})),
        ("K affine4/g64 V affine4/g64", "attention", times(**{"131072": 50.0})),
    ]
    records = made(make_lab(), entries)
    found = timed_results(records, "alpha")
    assert {one.result.spec.kv.label for one in found} == {kv for kv, protocol, _ in entries[:3]}
    assert [one.microseconds for one in front(found)][-1] == 80.0
    history = History(tuple(records))
    summary = summarise(history, ["alpha"], AgentSettings())
    shown = Resolver(history, AgentSettings()).render(summary.text)
    assert "## Speed beside quality" in shown
    assert "50 us per step" in shown
    untimed = [record for record in records if record.spec.protocol == "quality"]
    assert "Speed beside quality" not in summarise(History(tuple(untimed)), ["alpha"], AgentSettings()).text


@given(points=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=12))
def test_nothing_beats_what_is_on_the_front_and_something_beats_the_rest(points):
    class Point:
        def __init__(self, objectives):
            self.objectives = objectives
            self.microseconds = objectives[2]

    found = [Point(point) for point in points]
    kept = {one.objectives for one in front(found)}
    for point in points:
        beaten = any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
        assert (point in kept) == (not beaten)


@pytest.mark.parametrize("count", [0, 1])
def test_few_results_are_their_own_front(make_lab, count):
    entries = [("K q8_0 V q8_0", "quality", {}), ("K q8_0 V q8_0", "attention", times(**{"8192": 30.0}))]
    assert len(front(timed_results(made(make_lab(), entries[: 2 * count]), "alpha"))) == count
