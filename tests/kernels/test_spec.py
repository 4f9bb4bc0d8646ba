"""The text form of a cache configuration: `parse` reads back what `label` writes, and refuses all else by its place."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from swarm.kernels import plugins
from swarm.kernels.errors import SpecError
from swarm.kernels.quantizers import base
from swarm.kernels.spec import KVSpec, LayerOverride, QuantSpec, ranges

METHODS = plugins.names(base.PACKAGE)


@st.composite
def quant_specs(draw, side):
    """Any specification of any method that is made for that side."""
    method = draw(st.sampled_from([name for name in METHODS if side in base.method(name).choices.sides]))
    return QuantSpec(method=method, **draw(st.sampled_from(list(base.method(method).choices.combinations()))))


layer_sets = st.sets(st.integers(0, 40), min_size=1, max_size=8).map(sorted).map(tuple)


@st.composite
def kv_specs(draw):
    """Any specification that can be built, with overrides of some layers and with some layers only."""
    key, value = draw(quant_specs("key")), draw(quant_specs("value"))
    fields = {
        "sink_tokens": draw(st.integers(0, 99999)),
        "residual_window": draw(st.sampled_from((0, 0, 32, 128))),
        "key_bias": draw(st.sampled_from(("keep", "keep", "subtract"))),
        "layers": draw(st.none() | layer_sets),
    }
    overrides = []
    for _ in range(draw(st.integers(0, 2))):
        sides = {side: draw(st.none() | quant_specs(side)) for side in ("key", "value")}
        if any(sides.values()):
            layers = draw(layer_sets if fields["layers"] is None else st.just(fields["layers"]))
            overrides.append(LayerOverride(layers=layers, **sides))
    try:
        return KVSpec(key=key, value=value, overrides=tuple(overrides), **fields)
    except SpecError:
        assume(False)


@given(kv_specs())
def test_a_label_parses_back_to_its_specification(kv):
    assert KVSpec.parse(kv.label) == kv
    assert KVSpec.parse(kv.short_label) == kv
    assert KVSpec.parse(f"  {kv.label.replace(' ', '   ')} ") == kv


@given(st.sampled_from(["key", "value"]).flatmap(quant_specs))
def test_a_quantizer_label_parses_back_but_for_an_axis_that_follows_from_the_side(spec):
    found = QuantSpec.parse(spec.label)
    assert found.model_copy(update={"axis": found.axis or "token"}) == spec


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("affine", "K affine4/g64 V affine4/g64"),
        ("kivi4/g32", "K kivi4/g32/channel V kivi4/g32"),
        ("KV kivi4/g32", "K kivi4/g32 V kivi4/g32"),
        ("qjl3", "K qjl3 V none"),
        ("q8_0,q4_0", "K q8_0 V q4_0"),
        ("K affine8/g64", "K affine8/g64 V none"),
        ("V q4_0 K q8_0 recent32 sink4", "K q8_0 V q4_0 sink4 recent32"),
        (
            "turboquant_mse3+random+learned sink4",
            "K turboquant_mse3+random+learned V turboquant_mse3+random+learned sink4",
        ),
        ("KV affine4/g64/token+none+fixed layers 0-2,5", "K affine4/g64 V affine4/g64 layers 0-2,5"),
        (
            "KV affine4/g64 -bias [layers 0,23: K affine8/g64] [layer 3: KV q8_0] layers 0-3,23",
            "K affine4/g64 V affine4/g64 -bias [layers 0,23: K affine8/g64] [layers 3: K q8_0 V q8_0] layers 0-3,23",
        ),
    ],
)
def test_what_people_write(text, label):
    assert KVSpec.parse(text).label == label


@pytest.mark.parametrize(
    ("text", "column", "piece", "said"),
    [
        ("K afine4/g64 V q8_0", 3, "afine4", "Did you mean 'affine'?"),
        ("K affine4/g64 V q8_0 snk4", 22, "snk4", "Did you mean 'sink4'?"),
        ("K affine4/g64+hadamrd", 14, "+hadamrd", "Did you mean '+hadamard'?"),
        ("K affine4/g63", 3, "affine4/g63", "It takes group_size in: 64, 32, 128."),
        ("K affine7", 3, "affine7", "It takes bits in"),
        ("K affine99", 3, "affine99", "bits"),
        ("K affine4/g32/g64", 14, "/g64", "given twice"),
        ("K affine4 K affine4", 11, "K", "the keys are given twice"),
        ("V qjl3", 3, "qjl3", "cannot quantize values"),
        ("K q8_0 V", 8, "V", "a method is missing"),
        ("K q8_0 sink4 sink8", 14, "sink8", "given twice"),
        ("K q8_0 layers 3-1", 15, "3-1", "not a list of layers"),
        ("K q8_0 layers", 14, "", "not a list of layers"),
        ("K q8_0 [layers 0: Q q4_0]", 19, "Q", "unknown side"),
        ("K q8_0 [layers 0; K q4_0]", 8, "[layers 0; K q4_0]", "not an override"),
        ("K q8_0 [layers 0: K q8_0]", 1, "K q8_0 [layers 0: K q8_0]", "have without it"),
        ("q8_0,q4_0,q4_1", 1, "q8_0,q4_0,q4_1", "names 3 methods"),
        ("q8_0,q9", 6, "q9", "unknown method"),
        ("none sink4", 1, "none sink4", "16 bit already"),
        ("", 1, "", "names no method"),
    ],
)
def test_a_text_that_cannot_be_read_is_refused_by_its_place(text, column, piece, said):
    with pytest.raises(SpecError) as caught:
        KVSpec.parse(text)
    assert f"column {column}, {piece!r}:" in str(caught.value)
    assert said in str(caught.value)


PIECES = ["K", "V", "KV", "affine4/g64", "q8_0", "kivi2", "sink4", "recent", "-bias", "layers", "0-3", "["]
tokens = st.sampled_from([*PIECES, "[layers 0: K q8_0]"])


@given(st.text() | st.lists(tokens | st.text(max_size=6), max_size=8).map(" ".join))
@example("K affine" + "9" * 5000)
@example("KV affine4/g" + "9" * 5000)
@example("KV q8_0 sink" + "9" * 5000)
@example("KV q8_0 sink٣")
@example("KV q8_0 layers 0-99999,\x00")
def test_any_other_text_raises_a_specification_error_and_nothing_else(text):
    for kind in (KVSpec, QuantSpec):
        try:
            spec = kind.parse(text)
        except SpecError as error:
            problem = error.problem
        else:
            assert kind.parse(spec.label).label == spec.label
            continue
        assert "at column " in problem


def test_ranges():
    assert ranges([0, 1, 2, 4, 6, 7]) == "0-2,4,6-7"
    assert ranges([]) == ""
