"""What a quantized cache does to answers that a model writes by itself, where errors build up."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from swarm.experiments.environment import environment
from swarm.experiments.measurement import divergence
from swarm.experiments.measurement.generation_run import MOST_TOKENS, GenerationRun, rows
from swarm.experiments.measurement.learned_scaling import trial_caches
from swarm.experiments.measurement.prompts import Assignment, compiles, is_valid_json
from swarm.experiments.protocols.base import ComparedProtocol, storage
from swarm.experiments.space.layers import ALL, PROTECT, Scope
from swarm.experiments.spec import Measurement, Metric, TrialSpec

NGRAM = 4
LAST = 64
"""Tokens at the end of an answer that show whether it goes in circles."""
DEGENERATE = 0.5
"""An answer goes in circles when it has repeated more than this share of its last tokens' n-grams."""


class FreeAnswers(ComparedProtocol[GenerationRun]):
    """Answers to instructions, code, JSON and copying, greedy and sampled, beside those of the 16-bit run.

    `context` is prompt and answer together.
    """

    name: ClassVar[str] = "generation"
    summary: ClassVar[str] = "where free-running answers part from 16 bit's, and whether they are still of use"
    rungs: ClassVar[tuple[str, ...]] = ("along the 16-bit run's answers", "free-running answers")
    scopes: ClassVar[tuple[Scope, ...]] = (ALL, PROTECT)
    references = (GenerationRun, GenerationRun)
    least_context: ClassVar[int] = 256
    most_context: ClassVar[int | None] = MOST_TOKENS * 3 // 2

    def compare(self, spec: TrialSpec, reference: GenerationRun, caches: list[Any]) -> Measurement:
        """Read along the 16-bit answers; on the upper rung also let the model go on where it parts from them."""
        along = reference.along(caches, spec)
        parted = reference.parted(along)
        held = storage(caches)
        series = _along(reference, along.kld, parted)
        if spec.rung:
            series |= _answers(spec, reference, *reference.free(trial_caches(spec, reference.subject), spec, parted))
        return Measurement(
            metrics=(
                *(_metric(name, unit, values) for name, (unit, values) in series.items()),
                *_growth(series["kld"][1], series["late_kld"][1]),
                *held,
            ),
            arrays={f"window_{name}": tuple(_by_prompt(values).tolist()) for name, (_, values) in series.items()},
            notes=f"{reference.asked}; divergence over the 64 likeliest tokens and the rest",
            environment=environment(),
        )


Series = dict[str, tuple[str, NDArray[np.float64]]]
"""Unit and values by name, one value per answer."""


def _metric(name: str, unit: str, values: NDArray[np.float64]) -> Metric:
    pairs = _by_prompt(values)
    return Metric.of(name, divergence.mean(pairs), unit, len(pairs), divergence.jackknife(pairs, divergence.mean))


def _by_prompt(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A prompt's greedy and sampled answers are one sample, so that samples are independent."""
    means: NDArray[np.float64] = values.reshape(-1, 2).mean(1)
    return means


def _along(reference: GenerationRun, kld: NDArray[np.float64], parted: NDArray[np.int64]) -> Series:
    lengths = reference.ends - reference.starts
    half = reference.starts + lengths // 2
    place = np.arange(kld.shape[1])
    late = (place >= half[:, None] - 1) & (place < reference.ends[:, None] - 1)
    return {
        "kld": ("nat", kld.sum(1) / lengths),
        "late_kld": ("nat", (kld * late).sum(1) / np.maximum(late.sum(1), 1)),
        "tokens_until_parting": ("token", (parted - reference.starts).astype(np.float64)),
        "unparted": ("share", (parted == reference.ends).astype(np.float64)),
        "answer_tokens_16bit": ("token", lengths.astype(np.float64)),
    }


def _growth(kld: NDArray[np.float64], late: NDArray[np.float64]) -> tuple[Metric, ...]:
    """Divergence of the second halves of the answers over that of the whole; nothing where there is none."""
    pairs = np.stack([_by_prompt(late), _by_prompt(kld)], axis=1)
    if not pairs[:, 1].all():
        return ()

    def ratio(part: NDArray[np.float64]) -> float:
        return float(part[:, 0].sum() / part[:, 1].sum())

    return (Metric.of("late_growth", ratio(pairs), "ratio", len(pairs), divergence.jackknife(pairs, ratio)),)


def _answers(spec: TrialSpec, reference: GenerationRun, found: list[list[int]], ended: list[bool]) -> Series:
    """How much answers repeat, and whether code and JSON are valid; each beside the 16-bit run's answers."""
    prompts = rows(spec.replicate)
    decode = reference.subject.loaded.tokenizer.decode
    runs = {"": (found, ended), "_16bit": (reference.answers, reference.ended.tolist())}
    series: Series = {}
    for suffix, (answers, whole) in runs.items():
        series[f"repetition{suffix}"] = ("share", np.array([_repeated(tokens) for tokens in answers]))
        circles = [float(_repeated(tokens, LAST) > DEGENERATE) for tokens in answers]
        series[f"degenerate{suffix}"] = ("share", np.array(circles))
        texts = list(zip(prompts, (str(decode(t, skip_special_tokens=True)) for t in answers), whole, strict=True))
        series[f"valid_json{suffix}"] = ("share", _of_kind("json", texts, lambda p, text, _: is_valid_json(text, p)))
        series[f"compiles{suffix}"] = ("share", _of_kind("code", texts, lambda _, text, end: compiles(text, ended=end)))
    return series


def _of_kind(
    kind: str, texts: list[tuple[Assignment, str, bool]], test: Callable[[Assignment, str, bool], bool]
) -> NDArray[np.float64]:
    return np.array([float(test(*one)) for one in texts if one[0].kind == kind])


def _repeated(tokens: list[int], last: int | None = None) -> float:
    """Share of n-grams (of the last tokens, or of all) that the answer had before."""
    grams = [tuple(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)]
    seen: set[tuple[int, ...]] = set()
    old = []
    for gram in grams:
        old.append(gram in seen)
        seen.add(gram)
    old = old[-last:] if last else old
    return sum(old) / len(old) if old else 0.0
