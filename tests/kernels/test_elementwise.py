"""The numpy activations are MLX's own functions: same values, same types, same gradients."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swarm.kernels import blas

blas.use_openblas(1)

import mlx.core as mx  # noqa: E402
import mlx.nn as nn  # noqa: E402
from mlx_lm.models import activations  # noqa: E402

from swarm.kernels import elementwise  # noqa: E402

pytestmark = pytest.mark.skipif(mx.default_device() != mx.cpu, reason="MLX computes elsewhere")

elementwise.remove()
ORIGINALS: dict[str, Callable[..., mx.array]] = {
    name: getattr(activations if "mlx_lm" in module else nn, name) for module, name, _ in elementwise.TARGETS
}
ARGUMENTS = {name: 2 if name == "swiglu" else 1 for name in ORIGINALS}
FLOATS = st.floats(-(2.0**99), 2.0**99, width=32) | st.floats(-120, 120, width=32)
UNIT = {mx.float32: 2**-22, mx.float16: 2**-9, mx.bfloat16: 2**-6}


def replacement(name: str) -> Callable[..., mx.array]:
    return getattr(activations if name == "swiglu" else nn, name)


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    assert elementwise.install()
    yield
    elementwise.remove()


def agree(name: str, arrays: list[mx.array]) -> None:
    theirs, ours = ORIGINALS[name](*arrays), replacement(name)(*arrays)
    assert ours.dtype == theirs.dtype
    assert ours.shape == theirs.shape
    expected, found = (np.array(x.astype(mx.float32)).astype(np.float64) for x in (theirs, ours))
    # Rounding is relative to the inputs: the functions cancel where their value is near zero.
    scale = np.prod([np.maximum(np.abs(np.array(x.astype(mx.float32)).astype(np.float64)), 1) for x in arrays], axis=0)
    bad = np.isfinite(expected) != np.isfinite(found)
    limit = float(mx.finfo(ours.dtype).max)
    assert not np.any(bad & (np.abs(scale) < 0.4 * limit))
    both = np.isfinite(expected) & np.isfinite(found)
    assert np.all(np.abs(expected[both] - found[both]) <= UNIT[ours.dtype] * scale[both])


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.float16, mx.bfloat16], ids=str)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_values_of_any_shape(name, dtype, data) -> None:
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6))
    arrays = [mx.array(data.draw(hnp.arrays(np.float32, shape, elements=FLOATS))) for _ in range(ARGUMENTS[name])]
    agree(name, [array.astype(dtype) for array in arrays])


@pytest.mark.parametrize("name", ORIGINALS)
@pytest.mark.parametrize("seed", range(3))
def test_large_strided_views(name, seed) -> None:
    mx.random.seed(seed)
    whole = [8 * mx.random.normal((3, 200, 301)) for _ in range(ARGUMENTS[name])]
    agree(name, [array.transpose(0, 2, 1)[:, ::3, 5:] for array in whole])


@pytest.mark.parametrize("name", ORIGINALS)
def test_inputs_are_left_alone(name) -> None:
    arrays = [mx.linspace(-3, 3, 50) * (index + 1) for index in range(ARGUMENTS[name])]
    before = [np.array(array) for array in arrays]
    mx.eval(replacement(name)(*arrays))
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(np.array(array), copy)


@pytest.mark.parametrize("name", ORIGINALS)
def test_infinities_and_nan_come_out_as_from_mlx(name) -> None:
    x = mx.array([float("inf"), float("-inf"), float("nan"), 0.0, -0.0])
    arrays = [x, mx.ones_like(x)][: ARGUMENTS[name]]
    np.testing.assert_array_equal(np.array(replacement(name)(*arrays)), np.array(ORIGINALS[name](*arrays)))


@pytest.mark.parametrize("name", ORIGINALS)
def test_transformations_see_the_same_function(name) -> None:
    mx.random.seed(4)
    arrays, along = ([mx.random.normal((4, 6)) for _ in range(ARGUMENTS[name])] for _ in range(2))
    weight = mx.random.normal((4, 6))

    def both(transform: Callable[[Callable[..., mx.array]], mx.array], atol: float) -> None:
        theirs, ours = transform(ORIGINALS[name]), transform(replacement(name))
        np.testing.assert_allclose(np.array(ours), np.array(theirs), atol=atol)

    for number in range(ARGUMENTS[name]):
        both(lambda f, n=number: mx.grad(lambda *x: (f(*x) * weight).sum(), argnums=n)(*arrays), 0)
    both(lambda f: mx.jvp(f, arrays, along)[1][0], 0)
    both(lambda f: mx.compile(lambda *x: f(*x) + 1)(*arrays), 1e-6)
    both(lambda f: mx.vmap(f)(*arrays), 1e-6)


def test_types_and_shapes_that_differ_are_left_to_mlx() -> None:
    gate, x = mx.array([1.0, -2.0]), mx.array([[3.0, 1.0]]).astype(mx.float16)
    found = replacement("swiglu")(gate, x)
    assert found.dtype == mx.float32
    np.testing.assert_allclose(np.array(found), np.array(ORIGINALS["swiglu"](gate, x)))
    whole = mx.array([1, 2])
    assert replacement("silu")(whole).dtype == ORIGINALS["silu"](whole).dtype


def test_installing_twice_and_removing_restores_every_module() -> None:
    from mlx_lm.models import llama

    assert llama.swiglu is activations.swiglu is not ORIGINALS["swiglu"]
    assert elementwise.install()
    assert llama.swiglu is activations.swiglu
    elementwise.remove()
    elementwise.remove()
    for name, original in ORIGINALS.items():
        assert replacement(name) is original
    assert llama.swiglu is ORIGINALS["swiglu"]


def test_families_imported_later_use_them_too() -> None:
    from mlx_lm.models import olmo2

    assert olmo2.swiglu is activations.swiglu
    elementwise.remove()
    assert olmo2.swiglu is ORIGINALS["swiglu"]


def test_another_default_device_gets_the_original(monkeypatch) -> None:
    x = mx.array([1.0])
    monkeypatch.setattr(mx, "default_device", lambda: mx.gpu)
    assert not elementwise.install()
    assert replacement("silu")(x).item() == ORIGINALS["silu"](x).item()
