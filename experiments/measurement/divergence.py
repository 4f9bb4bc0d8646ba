"""How far a quantized run's next-token distributions are from the 16-bit run's, in the terms of llama-perplexity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.spec import Metric
from swarm.kernels.arrays import single
from swarm.kernels.errors import NonFiniteError

Floats = NDArray[np.float32]
BLOCK = 1 << 20
"""Logits that are worked on at a time: they stay in the processor's cache."""


@dataclass(frozen=True)
class Scores:
    """What two runs say about the same positions; every array is float64 [windows, positions].

    Attributes:
        kld: Kullback-Leibler divergence of the run from the reference, nats.
        same_top1: 1 where both name the same most likely token.
        delta_p: probability of the true token, run minus reference.
        delta_nll: negative log-likelihood of the true token, run minus reference, nats.
    """

    kld: NDArray[np.float64]
    same_top1: NDArray[np.float64]
    delta_p: NDArray[np.float64]
    delta_nll: NDArray[np.float64]


def compare(reference: Floats, run: Floats, targets: NDArray[np.integer]) -> Scores:
    """Score two runs over the same tokens.

    The distributions are the softmax over the last axis: over the whole vocabulary, or over the part of it that
    was scored, where both are renormalised.

    Args:
        reference: logits of the 16-bit run [windows, positions, tokens], any float type.
        run: logits of the quantized run, the same shape.
        targets: index of the true next token on the last axis [windows, positions].

    Raises:
        NonFiniteError: NaN or Inf among the logits of the run.
    """
    shape, size = run.shape[:-1], run.shape[-1]
    p_logits, q_logits = reference.reshape(-1, size), run.reshape(-1, size)
    truth = targets.reshape(-1)
    rows = len(q_logits)
    scores = np.empty((4, rows))
    step = max(1, BLOCK // size)
    for start in range(0, rows, step):
        part = slice(start, min(start + step, rows))
        scores[:, part] = _compare_rows(single(np, p_logits[part]), finite(q_logits[part]), truth[part])
    kld, same, delta_p, delta_nll = (row.reshape(shape) for row in scores)
    return Scores(kld, same, delta_p, delta_nll)


def join(parts: Sequence[Scores]) -> Scores:
    """Scores of consecutive positions of the same windows as one."""
    fields = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in Scores.__dataclass_fields__)
    return Scores(*fields)


def finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of a quantized run as they are.

    Raises:
        NonFiniteError: one is NaN or Inf.
    """
    if not np.isfinite(logits).all():
        raise NonFiniteError(
            "the logits of the quantized run are not finite.", "The configuration breaks the model: use more bits."
        )
    return logits


def _compare_rows(p_logits: Floats, q_logits: Floats, truth: NDArray[np.integer]) -> NDArray[np.float64]:
    """The four scores of rows [rows, tokens], in the order of `Scores`."""
    rows = np.arange(len(truth))
    top = p_logits.argmax(-1)
    p, p_norm = _softmax(p_logits)
    _, q_norm = _softmax(q_logits)
    # The difference of the logits is taken first and centred: both runs agree to many digits, their logarithms of
    # probabilities are rounded apart.
    difference = p_logits - q_logits
    centre = difference[rows, top].astype(np.float64)
    difference -= difference[rows, top][:, None]
    kld = np.vecdot(p, difference) + centre - (p_norm - q_norm)
    p_true, q_true = p_logits[rows, truth] - p_norm, q_logits[rows, truth] - q_norm
    same = top == q_logits.argmax(-1)
    # A divergence cannot be negative: below zero is rounding.
    return np.stack([np.maximum(kld, 0.0), same, np.exp(q_true) - np.exp(p_true), p_true - q_true])


def _softmax(logits: Floats) -> tuple[Floats, NDArray[np.float64]]:
    """The softmax over the last axis, and the logarithm of its denominator."""
    highest = logits.max(-1, keepdims=True)
    p: Floats = np.exp(logits - highest)
    total = p.sum(-1, dtype=np.float64)
    p /= total[:, None].astype(np.float32)
    return p, highest[:, 0] + np.log(total)


def metrics(scores: Scores) -> tuple[Metric, ...]:
    """The metrics of a whole run; n is the number of windows, standard errors are over windows (jackknife)."""
    kld = scores.kld
    windows = len(kld)
    means: tuple[tuple[str, str, NDArray[np.float64], Callable[[NDArray[np.float64]], float]], ...] = (
        ("kld", "nat", kld, mean),
        ("same_top1", "share", scores.same_top1, mean),
        ("rms_dp", "probability", scores.delta_p, _rms),
        ("ln_ppl_ratio", "nat", scores.delta_nll, mean),
    )
    found = [
        Metric.of(name, statistic(x), unit, windows, jackknife(x, statistic)) for name, unit, x, statistic in means
    ]
    for name, share in (("kld_p50", 50), ("kld_p90", 90), ("kld_p99", 99), ("kld_max", 100)):
        found.append(Metric.of(name, float(np.percentile(kld, share)), "nat", windows))
    return tuple(found)


def noise(windows: Sequence[float]) -> Metric:
    """The noise floor from the divergence per window of two 16-bit runs that ought to say the same."""
    values = np.array(windows)
    return Metric.of("noise_kld", mean(values), "nat", len(values), jackknife(values, mean))


def arrays(scores: Scores) -> dict[str, tuple[float, ...]]:
    """Means per window, for paired comparisons of trials on the same windows."""
    series = {"kld": scores.kld, "same_top1": scores.same_top1, "ln_ppl_ratio": scores.delta_nll}
    return {f"window_{name}": tuple(map(float, x.mean(-1))) for name, x in series.items()}


def jackknife(x: NDArray[np.float64], statistic: Callable[[NDArray[np.float64]], float]) -> float | None:
    """Standard error of a statistic of x [windows, ...] by leaving out one window at a time; None for one window.

    For a mean over windows of equal size this is the usual standard error of the mean.
    """
    windows = len(x)
    if windows < 2:
        return None
    left_out = np.array([statistic(np.delete(x, window, axis=0)) for window in range(windows)])
    return float(np.sqrt((windows - 1) / windows * ((left_out - left_out.mean()) ** 2).sum()))


def mean(x: NDArray[np.float64]) -> float:
    """The mean as a Python number."""
    return float(x.mean())


def _rms(x: NDArray[np.float64]) -> float:
    return float(np.sqrt((x**2).mean()))
