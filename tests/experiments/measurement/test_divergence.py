import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, rel_entr

from swarm.experiments.measurement import divergence
from swarm.kernels.errors import NonFiniteError


def runs(seed, windows=3, positions=5, tokens=40, noise=0.3, scale=3.0):
    rng = np.random.default_rng(seed)
    reference = rng.normal(scale=scale, size=(windows, positions, tokens)).astype(np.float32)
    run = reference + rng.normal(scale=noise, size=reference.shape).astype(np.float32)
    return reference, run, rng.integers(tokens, size=(windows, positions))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [1e-3, 0.3, 3.0])
def test_agrees_with_scipy_in_double_precision(seed, noise):
    reference, run, targets = runs(seed, noise=noise)
    scores = divergence.compare(reference, run, targets)
    p_log, q_log = (log_softmax(x.astype(np.float64), -1) for x in (reference, run))
    p, q = np.exp(p_log), np.exp(q_log)
    at = (*np.indices(targets.shape), targets)
    np.testing.assert_allclose(scores.kld, rel_entr(p, q).sum(-1), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(scores.delta_p, q[at] - p[at], atol=1e-6)
    np.testing.assert_allclose(scores.delta_nll, p_log[at] - q_log[at], atol=1e-5)
    np.testing.assert_array_equal(scores.same_top1, p.argmax(-1) == q.argmax(-1))


@given(seed=st.integers(0, 2**32 - 1), shift=st.floats(-1e4, 1e4), scale=st.floats(0.01, 30))
@settings(max_examples=50, deadline=None)
def test_equal_up_to_a_shift_is_no_divergence(seed, shift, scale):
    reference, _, targets = runs(seed, scale=scale)
    scores = divergence.compare(reference, (reference + np.float32(shift)).astype(np.float32), targets)
    rounding = (np.abs(reference).max() + abs(shift)) * 2.0**-23
    assert scores.kld.max() <= 1e-6 + 4 * rounding
    assert (divergence.compare(reference, reference, targets).kld == 0).all()


@given(seed=st.integers(0, 2**32 - 1), noise=st.floats(0, 100))
@settings(max_examples=50, deadline=None)
def test_a_divergence_is_never_negative_and_bounds_hold(seed, noise):
    scores = divergence.compare(*runs(seed, noise=noise))
    assert (scores.kld >= 0).all()
    assert (np.abs(scores.delta_p) <= 1 + 1e-6).all()
    # Pinsker's inequality: half the squared change of any probability is at most the divergence.
    assert (2 * scores.delta_p**2 <= scores.kld + 1e-5).all()


@pytest.mark.parametrize("block", [1, 7, 40, 10_000])
def test_the_size_of_the_blocks_does_not_matter(monkeypatch, block):
    whole = divergence.compare(*runs(0))
    monkeypatch.setattr(divergence, "BLOCK", block)
    parts = divergence.compare(*runs(0))
    np.testing.assert_array_equal(whole.kld, parts.kld)
    np.testing.assert_array_equal(whole.delta_nll, parts.delta_nll)


def test_a_reference_in_float16_gives_nearly_the_same():
    reference, run, targets = runs(1, tokens=2_000)
    exact = divergence.compare(reference, run, targets)
    rounded = divergence.compare(reference.astype(np.float16), run, targets)
    np.testing.assert_allclose(rounded.kld.mean(), exact.kld.mean(), rtol=0.002)
    np.testing.assert_allclose(rounded.kld, exact.kld, rtol=0.02)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_an_error(value):
    reference, run, targets = runs(0)
    run[1, 2] = value
    with pytest.raises(NonFiniteError):
        divergence.compare(reference, run, targets)


def test_metrics_name_their_statistics():
    scores = divergence.compare(*runs(3, windows=4))
    found = {metric.name: metric for metric in divergence.metrics(scores)}
    windows = scores.kld.mean(-1)
    assert found["kld"].value == pytest.approx(windows.mean())
    assert found["kld"].stderr == pytest.approx(windows.std(ddof=1) / 2)
    assert found["kld"].n == 4
    assert found["kld_p50"].value <= found["kld_p90"].value <= found["kld_p99"].value <= found["kld_max"].value
    assert found["kld_max"].value == scores.kld.max()
    assert found["rms_dp"].value == pytest.approx(np.sqrt((scores.delta_p**2).mean()))
    assert found["ln_ppl_ratio"].value == pytest.approx(scores.delta_nll.mean())
    assert 0 <= found["same_top1"].value <= 1
    series = divergence.arrays(scores)
    assert np.mean(series["window_kld"]) == pytest.approx(found["kld"].value)


def test_one_window_has_no_standard_error():
    found = {metric.name: metric for metric in divergence.metrics(divergence.compare(*runs(3, windows=1)))}
    assert found["kld"].stderr is None
    assert found["kld"].n == 1
