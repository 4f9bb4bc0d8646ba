from __future__ import annotations

import pytest

from swarm.agents.analysis import judge
from swarm.agents.analysis.base import analysts
from swarm.agents.analysis.claims import Claim, by_token
from swarm.agents.history import History
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import Finding, Prediction, Proposal, TrialRecord

PLAIN = QuantSpec(method="affine", bits=4)
TURNED = QuantSpec(method="affine", bits=4, rotation="hadamard")
A, B = KVSpec(key=TURNED, value=PLAIN), KVSpec(key=PLAIN, value=PLAIN)


def reversal(spec) -> float:
    return (-0.6 if spec.model == "alpha" else 0.6) * (spec.kv.key.rotation == "hadamard")


def judged_by(infos, found, known, history) -> list[Finding]:
    return judge.judge(found, known, history, {i.name: i for i in infos})


def measured(lab, specs, first=0) -> list[TrialRecord]:
    return [lab.run(first + n, Proposal(spec=spec, proposer="test")) for n, spec in enumerate(specs)]


def four(replicate: int = 0) -> list[TrialSpec]:
    return [TrialSpec(model=m, kv=kv, replicate=replicate, seed=replicate) for m in ("alpha", "beta") for kv in (A, B)]


def contrast(records) -> tuple[Finding, Claim]:
    keys = {r.spec.kv: key for (_, key), result in History(tuple(records)).results().items() for r in result.records}
    claim = Claim("contrast", "kld", (keys[A], keys[B]), ("alpha", "beta"))
    return (
        Finding(
            kind="contrast",
            key=claim.key,
            statement="x",
            models=("alpha", "beta"),
            effect=None,
            evidence=tuple(r.id for r in records),
            author="contrast",
        ),
        claim,
    )


def status(finding, records, infos) -> str:
    (judged,) = judged_by(infos, [], [finding], History(tuple(records)))
    return judged.status


def test_keys_of_claims_can_be_parsed_back() -> None:
    for claim in (
        Claim("pair", "kld", ("a1", "b2"), ("m",)),
        Claim("contrast", "kld", ("a1", "b2"), ("m", "n")),
        Claim("transfer", "kld", ("a1", "b2"), ("m", "n")),
    ):
        assert Claim.parse(claim.key) == claim
    for other in ("plateau:kld:4.6:m", "pair:kld:a", "contrast:kld:a:b:m", "law:attention_kl:m", ""):
        assert Claim.parse(other) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_claim_is_confirmed_by_replication_only(make_lab, infos, seed) -> None:
    lab = make_lab(seed=seed, law=reversal)
    records = measured(lab, four())
    finding, claim = contrast(records)
    assert status(finding, records, infos) == "hypothesis"
    ordered = [spec for f, spec in judge.replications([finding], History(tuple(records))) if f is finding]
    assert {(s.model, s.kv, s.replicate) for s in ordered} == {(s.model, s.kv, 1) for s in four()}
    assert all(s.seed == 1 for s in ordered)
    again = [*records, *measured(lab, ordered, 4)]
    assert status(finding, again, infos) == "confirmed"
    assert claim.estimate(by_token(History(tuple(again)).results()), [1]) is not None
    assert list(judge.replications([finding.model_copy(update={"status": "confirmed"})], History(tuple(again)))) == []


def test_a_claim_that_does_not_replicate_is_refuted(make_lab, infos) -> None:
    def lucky(spec) -> float:
        return reversal(spec) if spec.replicate == 0 else 0.0

    refuted = 0
    for seed in range(12):
        lab = make_lab(seed=seed, law=lucky)
        records = measured(lab, four())
        finding, _ = contrast(records)
        for replicate in (1, 2, 3):
            records += measured(lab, four(replicate), len(records))
        refuted += status(finding, records, infos) == "refuted"
    assert refuted >= 10


def test_running_and_failed_replications_are_not_ordered_again(make_lab, infos) -> None:
    lab = make_lab(law=reversal)
    records = measured(lab, four())
    finding, _ = contrast(records)
    repeat = measured(lab, four(1), 4)
    repeat[0] = repeat[0].model_copy(update={"state": "failed", "outcome": "crash", "metrics": {}, "arrays": {}})
    repeat[1] = repeat[1].model_copy(update={"state": "running", "metrics": {}, "arrays": {}})
    ordered = [s for _, s in judge.replications([finding], History((*records, *repeat)))]
    assert {s.replicate for s in ordered} == {2}


@pytest.mark.parametrize("what", ["metric", "windows", "both", "lost"])
def test_a_falsified_measurement_makes_its_findings_fall(make_lab, infos, what) -> None:
    lab = make_lab(law=reversal)
    records = measured(lab, [*four(), *four(1)])
    finding, _ = contrast(records)
    assert status(finding, records, infos) == "confirmed"
    for place in (0, 4):
        records[place] = falsified(records[place], what)
    assert status(finding, records, infos) == "refuted"


def falsified(record: TrialRecord, what: str) -> TrialRecord:
    windows = tuple(x * 50 for x in record.arrays["window_kld"])
    metric = record.metrics["kld"].model_copy(update={"value": sum(windows) / len(windows)})
    changes: dict[str, object] = {}
    if what == "lost":
        changes = {"state": "quarantined"}
    if what in ("metric", "both"):
        changes["metrics"] = {**record.metrics, "kld": metric}
    if what in ("windows", "both"):
        changes["arrays"] = {"window_kld": windows}
    return record.model_copy(update=changes)


def test_findings_that_analysts_no_longer_make_fall(make_lab, infos) -> None:
    plateau = Finding(
        kind="plateau", key="plateau:kld:4.6:alpha", statement="x", models=("alpha",), evidence=(1,), author="plateau"
    )
    (judged,) = judged_by(infos, [], [plateau], History(()))
    assert judged.status == "refuted"
    (judged,) = judged_by(infos, [plateau], [plateau], History(()))
    assert judged.status == "hypothesis"


@pytest.mark.parametrize("seed", range(2))
def test_patterns_without_a_claim_are_confirmed_by_finding_them_again(make_lab, infos, seed) -> None:
    lab = make_lab(seed=seed)
    lab.n_layers = {"alpha": 12}

    def ladder(replicate: int) -> list[TrialSpec]:
        depths = [tuple(range(d)) for d in (2, 4, 6, 9, 11)]
        return [TrialSpec(model="alpha", kv=A, protocol="depth", layers=d, replicate=replicate) for d in depths]

    records = measured(lab, ladder(0))
    history = History(tuple(records))
    found = analysts()["depth"]().analyse(history, {"alpha": infos[0]})
    (growth,) = [f for f in found if f.key.startswith("depth:")]
    assert {f.status for f in judged_by(infos, [growth], [], history)} == {"hypothesis"}
    ordered = [spec for _, spec in judge.replications([growth], history)]
    assert len(ordered) == len(records)
    again = History((*records, *measured(lab, ordered, len(records))))
    assert [f.status for f in judged_by(infos, [growth], [], again)] == ["confirmed"]


def predicted(lab, prediction, kv=A, state="complete") -> TrialRecord:
    record = lab.run(9, Proposal(spec=TrialSpec(model="alpha", kv=kv), proposer="test", prediction=prediction))
    return record if state == "complete" else record.model_copy(update={"state": state, "metrics": {}, "arrays": {}})


@pytest.mark.parametrize(
    ("comparator", "threshold", "verdict"),
    [("<=", 1.0, "confirmed"), ("<=", 0.2, "refuted"), (">=", 0.2, "confirmed"), (">=", 1.0, "refuted")],
)
@pytest.mark.parametrize("seed", range(3))
def test_predictions_against_a_reference_are_scored_with_their_interval(make_lab, seed, comparator, threshold, verdict):
    lab = make_lab(seed=seed, law=reversal, noise=0.03)
    base = measured(lab, [TrialSpec(model="alpha", kv=B)])[0]
    prediction = Prediction(metric="kld", comparator=comparator, threshold=threshold, reference=base.id)
    record = predicted(lab, prediction)
    score = judge.score(record, History((base, record)))
    assert score is not None
    assert score.verdict == verdict
    assert score.low <= score.observed <= score.high


def test_predictions_that_the_interval_straddles_are_inconclusive(make_lab) -> None:
    lab = make_lab(law=reversal, noise=0.3)
    base = measured(lab, [TrialSpec(model="alpha", kv=B)])[0]
    record = predicted(lab, Prediction(metric="kld", comparator="<=", threshold=0.55, reference=base.id))
    assert judge.score(record, History((base, record))).verdict == "inconclusive"


def test_predictions_about_the_metric_itself(make_lab) -> None:
    lab = make_lab()
    bits = predicted(lab, Prediction(metric="bits_per_value", comparator="<=", threshold=5.0))
    assert judge.score(bits, History((bits,))).verdict == "confirmed"
    wide = predicted(lab, Prediction(metric="kld", comparator=">=", threshold=100.0))
    assert judge.score(wide, History((wide,))).verdict == "refuted"


def test_predictions_that_cannot_be_scored(make_lab) -> None:
    lab = make_lab()
    plain = predicted(lab, None)
    assert judge.score(plain, History((plain,))) is None
    known = Prediction(metric="kld", comparator="<=", threshold=1.0)
    running = predicted(lab, known, state="running")
    assert judge.score(running, History((running,))).verdict == "open"
    failed = predicted(lab, known, state="failed")
    assert judge.score(failed, History((failed,))).verdict == "inconclusive"
    invented = predicted(lab, known.model_copy(update={"reference": 4_711}))
    assert judge.score(invented, History((invented,))).verdict == "inconclusive"
    unknown = predicted(lab, known.model_copy(update={"metric": "beauty"}))
    assert judge.score(unknown, History((unknown,))).verdict == "inconclusive"


def test_metrics_without_windows_are_compared_by_their_intervals(make_lab) -> None:
    lab = make_lab()
    base = measured(lab, [TrialSpec(model="alpha", kv=B)])[0]

    def with_error(record: TrialRecord, value: float) -> TrialRecord:
        metric = Metric(name="ms", value=value, n=10, stderr=0.02 * value)
        return record.model_copy(update={"metrics": {"ms": metric}, "arrays": {}})

    reference = with_error(base, 2.0)
    prediction = Prediction(metric="ms", comparator="<=", threshold=0.8, reference=reference.id)
    record = with_error(predicted(lab, prediction), 1.0)
    score = judge.score(record, History((reference, record)))
    assert score.verdict == "confirmed"
    assert score.observed == pytest.approx(0.5)


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_campaigns_confirm_a_contrast_or_a_transfer_and_nothing_false(make_lab, simulate, infos, seed) -> None:
    def law(spec) -> float:
        turned = (spec.kv.key.rotation == "hadamard") + (spec.kv.value.rotation == "hadamard")
        return turned * (-0.6 if spec.model == "alpha" else 0.5)

    lab = make_lab(seed=seed, law=law)
    run = simulate(lab, infos, 220, seed=seed)
    confirmed = [f.finding for f in run.findings if f.finding.status == "confirmed"]
    assert [f for f in confirmed if f.kind in ("contrast", "transfer")]
    truth = {r.id: lab.log_kld(r.spec) for r in run.records}
    found = by_token(run.history.results())
    for finding in confirmed:
        claim = Claim.parse(finding.key)
        if claim is None:
            continue
        levels = {place: truth[found[place].records[0].id] for place in claim.needs}
        better, worse = claim.configurations
        gaps = [levels[m, better] - levels[m, worse] for m in dict.fromkeys(model for model, _ in claim.needs)]
        effect = gaps[0] - gaps[1] if claim.relation == "contrast" else gaps[0]
        assert effect < 0
