"""Edits of weights: their text, their identity, and that a model's 16-bit function stays while its errors change."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from swarm.experiments import edits
from swarm.experiments.edits import CHANGES, WeightEdit
from swarm.experiments.identity import fingerprint, versions
from swarm.experiments.spec import TrialSpec
from swarm.kernels.errors import SpecError
from swarm.kernels.spec import KVSpec

FAMILIES = ("llama", "gemma3_text", *(pytest.param(name, marks=pytest.mark.slow) for name in ("qwen2", "qwen3")))
CONTEXT = 96
CHANGED = (
    "keys outliers x8",
    "values outliers x8",
    "keys outliers x5.3 layers 1-2",
    "keys even",
    "values even",
    "keys scaled x4",
    "keys balanced",
    "values balanced",
    "scale folded",
)

parts = st.sampled_from([(part, change) for part, changes in CHANGES.items() for change in changes])
layers = st.none() | st.sets(st.integers(0, 40), min_size=1).map(lambda found: tuple(sorted(found)))


@st.composite
def weight_edits(draw):
    part, change = draw(parts)
    factor = draw(st.floats(1.001, 256)) if change in ("outliers", "scaled") else None
    return WeightEdit(part=part, change=change, factor=factor and float(f"{factor:.6g}"), layers=draw(layers))


@given(st.lists(weight_edits(), max_size=4).map(tuple))
@settings(deadline=None)
def test_read_is_the_inverse_of_label(found):
    assert edits.read(edits.label(found)) == found
    spec = TrialSpec(model="a", edits=edits.label(found))
    assert spec.edits == found
    assert TrialSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("keys", "no edit"),
        ("keys folded", "cannot be made"),
        ("keys outliers", "factor"),
        ("keys even x4", "factor"),
        ("keys outliers x1", "factor"),
        ("keys outliers x9999", "factor"),
        ("keys outliers x1.2.3", "factor"),
        ("values even layers 3-1", "layers"),
        ("keys even; queries even", "column 12"),
        ("keys even;", ""),
    ],
)
def test_what_makes_no_sense_is_refused(text, reason):
    if not reason:
        assert len(edits.read(text)) == 1
        return
    with pytest.raises(SpecError, match=reason):
        edits.read(text)
    with pytest.raises((SpecError, ValidationError)):
        TrialSpec(model="a", edits=text)


def test_edits_are_part_of_what_a_trial_is_and_no_edits_are_not_written_down():
    plain, edited = TrialSpec(model="a"), TrialSpec(model="a", edits="keys even")
    assert "edits" not in plain.model_dump_json()
    assert fingerprint(plain) != fingerprint(edited)
    assert versions(edited)["weight edits"] == edits.EDIT_VERSION


@pytest.fixture
def run(runner, tiny_models):
    def measured(family, kv="", text="", **fields):
        spec = TrialSpec(
            model=tiny_models[family], kv=KVSpec.parse(kv) if kv else KVSpec(), context=CONTEXT, edits=text, **fields
        )
        return runner.run(spec)

    return measured


def captured(runner, tiny_models, family, text):
    """The 16-bit run that trials under edits get, and the one that the edited model makes by itself."""
    from swarm.experiments.measurement.decode import DecodeRun
    from swarm.experiments.measurement.editing import edited

    spec = TrialSpec(model=tiny_models[family], context=CONTEXT, edits=text)
    subject = runner.subject(spec.model)
    with edited(spec, subject):
        own = runner.captures.get("own", {"edits": text, "family": family}, lambda w: DecodeRun.write(spec, subject, w))
        return subject.shared(DecodeRun, spec).capture, own


@pytest.mark.parametrize(
    ("text", "family"),
    [
        pytest.param(text, family, marks=() if family == ("llama", "gemma3_text")[place % 2] else pytest.mark.slow)
        for place, text in enumerate(CHANGED)
        for family in ("llama", "gemma3_text", "qwen2", "qwen3")
    ],
)
def test_the_16_bit_function_stays_and_keys_and_values_are_those_of_the_edited_model(runner, tiny_models, family, text):
    derived, own = captured(runner, tiny_models, family, text)
    # Powers of two only move exponents; other factors round elsewhere.
    exact = "5.3" not in text and text != "scale folded"
    for name in ("logits", "hidden", "keys", "values", "tail_keys", "tail_values", "queries"):
        found, expected = np.array(derived[name], np.float64), np.array(own[name], np.float64)
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=(1e-5 if exact else 3e-3) * np.abs(expected).max())
    assert derived.facts["scales"] == own.facts["scales"]
    np.testing.assert_array_equal(derived["targets"], own["targets"])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["keys", "values"])
def test_planted_outliers_hurt_their_side_and_evening_removes_them(run, family, side):
    kv = {"keys": "K affine4/g32 V none", "values": "K none V affine4/g32"}
    other = kv["values" if side == "keys" else "keys"]
    plain = run(family, kv[side])["kld"]
    planted = run(family, kv[side], f"{side} outliers x16")["kld"]
    assert planted > 5 * plain
    for cure in ("even", "balanced"):
        assert run(family, kv[side], f"{side} outliers x16; {side} {cure}")["kld"] < 2 * plain
    assert run(family, other, f"{side} outliers x16")["kld"] == pytest.approx(run(family, other)["kld"], rel=0.05)


def test_outliers_in_one_layer_hurt_that_layer_alone(run):
    errors = [
        np.array(run("llama", "K affine4/g32 V none", text, protocol="attention").arrays["layer_attention_kl"])
        for text in ("", "keys outliers x16 layer 2")
    ]
    ratio = errors[1] / errors[0]
    assert ratio[2] > 5
    np.testing.assert_allclose(np.delete(ratio, 2), 1, rtol=0.02)


@pytest.mark.parametrize("family", FAMILIES)
def test_captures_show_what_was_planted_and_that_balancing_removes_it(run, family):
    def shown(text):
        found = run(family, "KV q8_0", text, protocol="attention").arrays
        return np.array([found["layer_key_imbalance"], found["layer_value_unevenness"]])

    plain, planted = shown(""), shown("keys outliers x16 layer 1; values outliers x16 layer 2")
    ratio = planted / plain
    assert ratio[0, 1] > 1.3
    assert ratio[1, 2] > 1.3
    np.testing.assert_allclose([*np.delete(ratio[0], 1), *np.delete(ratio[1], 2)], 1, rtol=0.02)
    cured = shown("keys outliers x16 layer 1; keys balanced")[0]
    assert cured[1] < planted[0, 1] / 1.3


@pytest.mark.parametrize("family", FAMILIES)
def test_folding_the_scale_changes_no_error(run, family):
    kv = "K affine3/g32 V affine3/g32"
    assert run(family, kv, "scale folded")["kld"] == pytest.approx(run(family, kv)["kld"], rel=1e-2)


def test_the_model_is_as_it_was_afterwards(run):
    kv = "K affine3/g32+learned V affine3/g32"
    before = run("gemma3_text", kv)
    run("gemma3_text", kv, "keys outliers x8; values even; scale folded")
    assert run("gemma3_text", kv).arrays == before.arrays
    with pytest.raises(SpecError, match="layer 9"):
        run("gemma3_text", kv, "keys outliers x8; values even layer 9")
    assert run("gemma3_text", kv).arrays == before.arrays


def test_another_family_is_refused(runner, tiny_models, monkeypatch):
    from swarm.experiments.measurement import editing

    monkeypatch.setattr(editing, "FAMILIES", ("llama",))
    with pytest.raises(SpecError, match="family qwen2"):
        runner.run(TrialSpec(model=tiny_models["qwen2"], context=CONTEXT, edits="keys even"))
