"""Known effects must be found and null effects must not be claimed."""

from __future__ import annotations

from collections import Counter
from math import log

import numpy as np
import pytest

from swarm.agents.analysis.base import Analyst, analysts
from swarm.agents.analysis.claims import Claim, by_token
from swarm.agents.history import History
from swarm.experiments.spec import Metric, TrialSpec
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.records import FindingRecord, Proposal


def trial(lab, number, model, kv, **fields):
    spec = TrialSpec(model=model, kv=kv, **fields)
    return lab.run(number, Proposal(spec=spec, proposer="test"))


def grid(sinks=(0, 4, 16)) -> list[KVSpec]:
    """Configurations of equal widths with every rotation of keys and values."""
    turned = [QuantSpec(method="affine", bits=4, rotation=rotation) for rotation in ("none", "hadamard", "random")]
    return [KVSpec(key=k, value=v, sink_tokens=s) for k in turned for v in turned for s in sinks]


def history(lab, models=("alpha", "beta"), kvs=None, **fields) -> History:
    kvs = grid() if kvs is None else kvs
    pairs = [(model, kv) for kv in kvs for model in models]
    return History(tuple(trial(lab, n, model, kv, **fields) for n, (model, kv) in enumerate(pairs)))


def named(infos):
    return {info.name: info for info in infos}


def analyse(name: str, seen: History, infos):
    return analysts()[name]().analyse(seen, named(infos))


@pytest.mark.parametrize("name", sorted(analysts()))
def test_contract(name, make_lab, infos, simulate) -> None:
    analyst = analysts()[name]()
    assert isinstance(analyst, Analyst)
    assert analyst.name == name
    for law in (lambda spec: 0.0, lambda spec: 1.5 * (spec.kv.key.rotation == "hadamard") * (spec.model == "beta")):
        seen = history(make_lab(law=law))
        findings = analyst.analyse(seen, named(infos))
        again = analysts()[name]().analyse(seen, named(infos))
        assert findings == again
        ids = {r.id for r in seen.completed}
        for finding in findings:
            assert finding.status == "hypothesis"
            assert finding.author == name
            assert set(finding.evidence) <= ids
            assert finding.evidence
            assert finding.effect is not None
            assert finding.effect.low <= finding.effect.value <= finding.effect.high
            assert len(finding.key) <= 200
        assert len({f.key for f in findings}) == len(findings)


@pytest.mark.parametrize("name", sorted(analysts()))
def test_little_or_odd_data_is_no_finding_and_no_crash(name, make_lab, infos) -> None:
    analyst = analysts()[name]()
    lab = make_lab()
    assert analyst.analyse(History(()), named(infos)) == []
    one = history(lab, kvs=grid()[:1])
    assert analyst.analyse(one, named(infos)) == []
    bare = tuple(
        r.model_copy(update={"arrays": {}, "metrics": {"kld": r.metrics["kld"]}}) for r in history(lab).records
    )
    analyst.analyse(History(bare), named(infos))
    zero = Metric(name="kld", value=0.0, n=4, stderr=0.0)
    exact = tuple(
        r.model_copy(update={"arrays": {"window_kld": (0.0,) * 4}, "metrics": {**r.metrics, "kld": zero}})
        for r in history(lab).records
    )
    assert [f for f in analyst.analyse(History(exact), named(infos)) if f.kind != "plateau"] == []
    alone = history(lab, models=("alpha",))
    for finding in analyst.analyse(alone, {"alpha": infos[0]}):
        assert finding.models == ("alpha",)
    analyst.analyse(history(lab, models=("gamma",)), named(infos))


@pytest.mark.parametrize("seed", range(3))
def test_reversed_orders_are_found(make_lab, infos, seed) -> None:
    def law(spec) -> float:
        sign = -1 if spec.model == "alpha" else 1
        return sign * 0.5 * (spec.kv.key.rotation == "hadamard")

    seen = history(make_lab(seed=seed, law=law))
    found = analyse("contrast", seen, infos)
    assert found
    measured = by_token(seen.results())
    for finding in found:
        claim = Claim.parse(finding.key)
        assert claim is not None
        kvs = {r.key: r.spec.kv for r in measured.values()}
        turned = [kvs[key].key.rotation == "hadamard" for key in claim.configurations]
        assert turned[0] != turned[1]
        assert (claim.models[0] == "alpha") == turned[0]
        assert finding.effect is not None
        assert finding.effect.low < np.exp(-1.0) * 1.6
    assert any("the other way round" in f.statement for f in found)
    (interaction,) = [f for f in analyse("interaction", seen, infos) if "hadamard:none" in f.key]
    assert interaction.statement.startswith("Rotation of the keys: hadamard instead of none lowers the KLD on alpha")
    assert interaction.effect is not None
    assert interaction.effect.low < np.exp(-1.0) < interaction.effect.high


def test_worlds_without_contrast_seldom_show_one(make_lab, infos) -> None:
    false = Counter()
    for seed in range(30):
        lab = make_lab(seed=seed, law=lambda spec: 0.7 * (spec.model == "beta") - 0.4 * (spec.kv.sink_tokens == 4))
        seen = history(lab, kvs=grid())
        for name in ("contrast", "interaction"):
            false[name] += bool(analyse(name, seen, infos))
    assert max(false.values(), default=0) <= 4


def test_worlds_without_effects_seldom_show_a_sensitivity(make_lab, infos) -> None:
    false = sum(bool(analyse("sensitivity", history(make_lab(seed=seed), kvs=grid((0,))), infos)) for seed in range(30))
    assert false <= 4


@pytest.mark.parametrize("seed", range(3))
def test_a_single_change_that_matters_is_found(make_lab, infos, seed) -> None:
    seen = history(make_lab(seed=seed, law=lambda spec: -0.8 * (spec.kv.value.rotation == "random")))
    found = [f for f in analyse("sensitivity", seen, infos) if "rotation of the values" in f.statement]
    assert {f.models for f in found} == {("alpha",), ("beta",)}
    for finding in found:
        assert finding.effect is not None
        assert finding.effect.low < np.exp(-0.8) * 1.3
        assert finding.effect.high < 1


def ladder(lab, power: float, models=("alpha",), depths=(2, 4, 6, 9, 12)) -> History:
    records = []
    for model in models:
        for depth in depths:
            layers = None if depth == 12 else tuple(range(depth))
            records.append(trial(lab, len(records), model, grid()[0], protocol="depth", layers=layers))
    return History(tuple(records))


@pytest.mark.parametrize(("power", "words"), [(1.0, "about in proportion"), (2.5, "faster than"), (0.3, "slower than")])
@pytest.mark.parametrize("seed", [0, 1])
def test_growth_with_depth_is_measured(make_lab, infos, power, words, seed) -> None:
    def law(spec) -> float:
        return (power - 1) * log(len(spec.layers) / 12) if spec.layers else 0.0

    lab = make_lab(seed=seed, law=law, noise=0.03)
    lab.n_layers = {"alpha": 12}
    (found,) = [f for f in analyse("depth", ladder(lab, power), infos) if f.key.startswith("depth:")]
    assert found.effect is not None
    assert found.effect.low <= power + 0.2
    assert found.effect.high >= power - 0.2
    assert words in found.statement


def test_a_flat_ladder_shows_no_growth(make_lab, infos) -> None:
    false = 0
    for seed in range(30):
        lab = make_lab(seed=seed, law=lambda spec: -log(len(spec.layers) / 12) if spec.layers else 0.0)
        lab.n_layers = {"alpha": 12}
        false += bool(analyse("depth", ladder(lab, 0.0), infos))
    assert false <= 4


@pytest.mark.parametrize("seed", range(3))
def test_the_sensitive_layer_is_found_and_equal_layers_are_not(make_lab, infos, seed) -> None:
    def singles(law) -> History:
        lab = make_lab(seed=seed, law=law)
        return History(
            tuple(
                trial(lab, n, "alpha", grid()[0], protocol="depth", layers=(layer,))
                for n, layer in enumerate((0, 3, 6, 9, 11))
            )
        )

    (found,) = analyse("depth", singles(lambda spec: 2.0 * (spec.layers == (6,))), infos)
    assert "layer 6 alone" in found.statement
    assert found.effect is not None
    assert found.effect.low > 2
    assert analyse("depth", singles(lambda spec: 0.0), infos) == []


def collapsing(spec) -> float:
    return 6.0 * (spec.kv.key.method == "affine" and spec.kv.key.bits == 3 and spec.model == "alpha")


def test_methods_that_collapse_on_one_model_are_found(make_lab, infos) -> None:
    three, four = (QuantSpec(method="affine", bits=b) for b in (3, 4))
    kvs = [
        KVSpec(key=k, value=four, sink_tokens=s, residual_window=w)
        for k in (three, four)
        for s in (0, 4, 16)
        for w in (0, 32)
    ]
    found = analyse("failure", history(make_lab(law=collapsing), kvs=kvs), infos)
    assert [f.models for f in found] == [("alpha",)]
    assert "keys in 3-bit affine" in found[0].statement
    assert analyse("failure", history(make_lab(), kvs=kvs), infos) == []


def search(lab, levels) -> History:
    """Trials at 4.5 bits whose truth follows the given levels in turn."""
    kvs = [kv for kv in grid(sinks=(0, 4, 16)) for _ in (0,)]
    records = []
    for n, level in enumerate(levels):
        lab.law = lambda spec, level=level: level
        kv = kvs[n % len(kvs)].model_copy(update={"residual_window": n})
        records.append(trial(lab, n, "alpha", kv))
    return History(tuple(records))


@pytest.mark.parametrize("seed", range(4))
def test_standstill_is_a_plateau_and_progress_is_none(make_lab, infos, seed) -> None:
    rng = np.random.default_rng(seed)
    stands = search(make_lab(seed=seed), np.concatenate([[-1.0], rng.uniform(0.3, 2.0, 40)]))
    (found, *_) = [f for f in analyse("plateau", stands, infos) if f.key == "plateau:kld:4.6:alpha"]
    assert found.effect is not None
    assert found.effect.low > 0.95
    moves = search(make_lab(seed=seed), np.linspace(2.0, -2.0, 40))
    assert [f for f in analyse("plateau", moves, infos) if ":kld:" in f.key] == []


def attention(lab, models, exponent, shift, seed) -> History:
    rng = np.random.default_rng(seed)
    records = []
    for model in models:
        for _ in range(10):
            g = float(np.exp(rng.normal(0, 1)))
            kl = float(np.exp(exponent * np.log(g) + shift.get(model, 0.0) + rng.normal(0, 0.1)))
            record = trial(
                lab, len(records), model, grid()[0], protocol="attention", layers=(len(records) % 9,), seed=len(records)
            )
            metrics = {name: Metric(name=name, value=v) for name, v in (("g", g), ("attention_kl", kl))}
            arrays = {"layer_g": (g,), "layer_attention_kl": (kl,)}
            records.append(record.model_copy(update={"metrics": metrics, "arrays": arrays}))
    return History(tuple(records))


@pytest.mark.parametrize("seed", range(3))
def test_the_law_of_attention(make_lab, infos, seed) -> None:
    same = {f.key: f for f in analyse("law", attention(make_lab(), ("alpha", "beta"), 2.0, {}, seed), infos)}
    assert "law:transfer:attention_kl:alpha:beta" in same
    assert "as theory has it" in same["law:attention_kl:alpha"].statement
    other = attention(make_lab(), ("alpha", "beta"), 1.0, {"beta": 1.5}, seed)
    found = {f.key: f for f in analyse("law", other, infos)}
    assert "law:contrast:attention_kl:alpha:beta" in found
    assert "not with the exponent" in found["law:attention_kl:beta"].statement


@pytest.mark.parametrize("seed", range(3))
def test_rankings_that_agree_and_that_do_not(make_lab, infos, seed) -> None:
    rng = np.random.default_rng(seed)
    quirks = {kv: float(rng.normal()) for kv in grid()}
    alike = history(make_lab(seed=seed, law=lambda spec: quirks[spec.kv]))
    (found,) = analyse("transfer", alike, infos)
    assert "rank alike" in found.statement
    opposed = history(make_lab(seed=seed, law=lambda spec: quirks[spec.kv] * (1 if spec.model == "alpha" else -1)))
    (found,) = analyse("transfer", opposed, infos)
    assert "opposite order" in found.statement
    own = {(model, kv): float(rng.normal()) for kv in grid() for model in ("alpha", "beta")}
    unrelated = history(make_lab(seed=seed, law=lambda spec: own[spec.model, spec.kv]))
    assert len(analyse("transfer", unrelated, infos)) <= 1


def test_long_and_odd_model_names_make_lawful_keys(make_lab, make_info) -> None:
    names = ("org/" + "x" * 150, "C:\\models\\" + "y" * 150)
    lab = make_lab(law=lambda spec: (1 if spec.model == names[0] else -1) * 0.6 * (spec.kv.key.rotation == "hadamard"))
    infos = [make_info(name) for name in names]
    seen = history(lab, models=names)
    for name in ("contrast", "interaction", "sensitivity"):
        found = analyse(name, seen, infos)
        assert found
        for finding in found:
            claim = Claim.parse(finding.key)
            assert claim is None or claim.estimate(by_token(seen.results())) is not None


def test_known_records_are_not_needed_twice(make_lab, infos) -> None:
    seen = history(make_lab())
    stored = FindingRecord(
        id=1,
        campaign_id=1,
        finding=analyse("sensitivity", history(make_lab(law=lambda s: 2.0 * (s.kv.key.rotation == "random"))), infos)[
            0
        ],
    )
    assert History(seen.records, findings=(stored,)).results().keys() == seen.results().keys()
