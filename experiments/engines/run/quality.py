"""How far an engine's next-token probabilities are from those of its own 16-bit run, over the same text.

The text is read once, in order: at eight depths, the last one at the end, some consecutive tokens are asked about one
by one, so that each is predicted from the cache as the engine keeps it. An engine names only its likeliest tokens:
the divergence is over those that both runs name and all others as one, which never overstates it; what share of the
16-bit run's probability those others hold is reported beside it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.experiments import artifacts
from swarm.experiments.engines.run.process import RunningEngine, running
from swarm.experiments.measurement.divergence import jackknife, mean
from swarm.experiments.spec import Metric, TrialSpec
from swarm.experiments.text import GOLDEN
from swarm.kernels.errors import UsageError

if TYPE_CHECKING:
    from swarm.experiments.engines.run.startable import NextToken, Pieces, StartableEngine
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

BLOCKS = 8
"""Depths at which tokens are predicted: the windows over which errors are computed."""
BLOCK_PLACES = 12
"""Consecutive places that are predicted at each."""
REFERENCE_VERSION = 1
"""Raised when what is asked of the 16-bit run changes."""
CHARACTERS_PER_PIECE = 12
"""Characters of text that are read per piece wanted: more than any tokenizer joins on average."""
ROOM = 160
"""Tokens beyond the context that an engine is started with: answers and the ends of prompts."""

Expected = list["NextToken"]


def expected(up: RunningEngine, spec: TrialSpec, text: str) -> Expected:
    """What a running engine says comes next at the places of a trial.

    Raises:
        NoProbabilitiesError: it does not say.
        UsageError: the text is too short.
    """
    pieces = up.engine.pieces(up.host, up.model, excerpt(text, spec))
    return up.engine.next_tokens(up.host, up.model, pieces, places(pieces, spec.context))


def places(pieces: Pieces, context: int) -> list[int]:
    """How many pieces come before each place that is predicted, ascending."""
    ends = [context * (block + 1) // BLOCKS for block in range(BLOCKS)]
    count = min(BLOCK_PLACES, context // BLOCKS)
    if len(pieces) < context:
        raise UsageError(
            f"the text has {len(pieces)} of {context} tokens from where the trial begins.",
            "Give a longer text with --corpus, or a shorter context.",
        )
    return [end - count + step for end in ends for step in range(count)]


def excerpt(text: str, spec: TrialSpec) -> str:
    """The part of a text that a trial reads; replicates begin elsewhere, and at a line."""
    length = spec.context * CHARACTERS_PER_PIECE
    share = (0.5 + spec.replicate * GOLDEN) % 1
    start = text.rfind("\n", 0, int(share * max(0, len(text) - length))) + 1
    return text[start : start + length]


def reference(engine: StartableEngine, spec: TrialSpec, subject: ModelUnderTest) -> Expected:
    """What the 16-bit run of the engine expects, from the cache, else from a run of it now: without any flag."""
    key = {
        "engine": engine.name,
        "build": engine.build(),
        "weights": subject.info.digest,
        "corpus": subject.corpus.digest,
        "context": spec.context,
        "replicate": spec.replicate,
        "tokens": engine.top_tokens,
        "version": REFERENCE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = artifacts.writable(artifacts.cache_dir() / "engines") / f"{digest}.json"
    with artifacts.cache_errors(path), artifacts.locked(path.with_suffix(".lock")):
        if path.exists():
            return list(json.loads(path.read_text("utf-8"))["expected"])
        with running(engine, subject.name, {}, context=spec.context + ROOM) as up:
            found = expected(up, spec, subject.corpus.part("scored"))
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({**key, "expected": found}), "utf-8")
        draft.replace(path)
    return found


def divergence(p: NextToken, q: NextToken) -> tuple[float, float]:
    """Kullback-Leibler divergence in nats of q from p over the tokens that both name and the rest as one; p's rest.

    Joining outcomes can only lower a divergence: the true one is at least this.
    """
    shared = sorted(p.keys() & q.keys())
    kld = sum(math.exp(p[token]) * (p[token] - q[token]) for token in shared)
    rest_p, rest_q = (max(1.0 - sum(math.exp(one[token]) for token in shared), 1e-9) for one in (p, q))
    return max(0.0, kld + rest_p * math.log(rest_p / rest_q)), rest_p


def metrics(exact: Expected, found: Expected) -> tuple[list[Metric], dict[str, tuple[float, ...]]]:
    """Divergence with its upper 95% limit (Student's t over the depths), same top token, and what is not named."""
    from scipy.special import stdtrit

    pairs = list(zip(exact, found, strict=True))
    scored = np.array([divergence(p, q) for p, q in pairs]).reshape(BLOCKS, -1, 2)
    same = np.array([float(_top(p) == _top(q)) for p, q in pairs]).reshape(BLOCKS, -1)
    kld, rest = scored[..., 0], scored[..., 1]
    error = jackknife(kld, mean) or 0.0
    upper = mean(kld) + float(stdtrit(BLOCKS - 1, 0.95)) * error
    return [
        Metric.of("kld", mean(kld), "nat", BLOCKS, error),
        Metric.of("kld_upper", upper, "nat", BLOCKS),
        Metric.of("same_top1", mean(same), "share", BLOCKS, jackknife(same, mean)),
        Metric.of("unnamed_p", mean(rest), "probability", BLOCKS, jackknife(rest, mean)),
    ], {"window_kld": _by_window(kld), "window_same_top1": _by_window(same)}


def _by_window(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values.mean(-1)))


def _top(tokens: NextToken) -> str:
    return max(tokens, key=tokens.__getitem__)


def notes(engine: StartableEngine, exact: Sequence[NextToken]) -> str:
    """In words what was compared."""
    return (
        f"{len(exact)} next tokens at {BLOCKS} depths against {engine.title} without flags, over the "
        f"{engine.top_tokens} likeliest and all others as one"
    )
