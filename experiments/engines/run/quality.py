"""How far an engine's next-token probabilities and answers are from those of its own 16-bit run, over the same text.

Behind the prompt, at the end of the context, some consecutive tokens are asked about one by one, so that each is
predicted from the cache as the engine keeps it. An engine names only its likeliest tokens: the divergence is over
those that both runs name and all others as one, which never overstates it; what share of the 16-bit run's probability
those others hold is reported beside it. Facts that the prompt hides are asked for too: what 16 bit does not find, no
flags can lose.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from swarm.experiments import artifacts
from swarm.experiments.engines.probe.endpoint import Endpoint, NoTextError, ProbeError
from swarm.experiments.engines.probe.prompts import SAMPLE_CHARACTERS, PromptMaker
from swarm.experiments.engines.run.process import RunningEngine, running
from swarm.experiments.engines.run.reading import BLOCK_PIECES, BLOCK_PLACES, BLOCKS, EngineReading, answers, places
from swarm.experiments.engines.run.startable import NoProbabilitiesError, RefusedError
from swarm.experiments.measurement.divergence import jackknife, mean
from swarm.experiments.measurement.haystack import WORDING
from swarm.experiments.spec import Metric, TrialSpec

if TYPE_CHECKING:
    from swarm.experiments.engines.run.startable import NextToken, StartableEngine
    from swarm.experiments.measurement.model_under_test import ModelUnderTest

REFERENCE_VERSION = 2
"""Raised when what is asked of the 16-bit run changes."""
ANSWER_TOKENS = 8
"""Tokens of an answer to a question: the facts are numbers of five digits."""
ROOM = 160
"""Tokens beyond the context that an engine is started with: answers and the ends of prompts."""

Expected = list["NextToken"]


@dataclass(frozen=True)
class EngineReference:
    """What the 16-bit run of an engine says of a trial's text.

    Attributes:
        characters: of a token of the engine on average, by which prompts are cut.
        expected: next tokens at the places of the trial; none where the engine tells no probabilities.
        answered: which questions it answers rightly.
    """

    characters: float
    expected: Expected
    answered: list[bool]


def expected(up: RunningEngine, spec: TrialSpec, reading: EngineReading) -> Expected:
    """What a running engine says comes next at the places of a trial.

    Raises:
        NoProbabilitiesError: it does not say.
        UsageError: the text is too short.
    """
    before = len(up.engine.pieces(up.host, up.model, reading.prompt))
    pieces = up.engine.pieces(up.host, up.model, reading.whole)
    return up.engine.next_tokens(up.host, up.model, pieces, places(before, pieces, spec.context))


def reference(engine: StartableEngine, spec: TrialSpec, subject: ModelUnderTest) -> EngineReference:
    """What the 16-bit run of the engine says, from the cache, else from a run of it now: without any flag."""
    key = {
        "engine": engine.name,
        "build": engine.build(),
        "weights": subject.info.digest,
        "corpus": subject.corpus.digest,
        "context": spec.context,
        "replicate": spec.replicate,
        "tokens": engine.top_tokens,
        "places": [BLOCKS, BLOCK_PIECES, BLOCK_PLACES],
        "wording": WORDING,
        "version": REFERENCE_VERSION,
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]
    path = artifacts.writable(artifacts.cache_dir() / "engines") / f"{digest}.json"
    with artifacts.cache_errors(path), artifacts.locked(path.with_suffix(".lock")):
        if path.exists():
            return EngineReference(**json.loads(path.read_text("utf-8"))["found"])
        with running(engine, subject.name, {}, context=spec.context + ROOM) as up, refusing():
            found = _read(up, spec, subject.corpus.part("scored"))
        draft = path.with_suffix(".new")
        draft.write_text(json.dumps({**key, "found": asdict(found)}), "utf-8")
        draft.replace(path)
    return found


def _read(up: RunningEngine, spec: TrialSpec, text: str) -> EngineReference:
    endpoint = up.endpoint
    characters = _characters(up, endpoint, text)
    reading = EngineReading.of(spec, text, characters)
    answer(endpoint, reading.prompt)  # alone first, as in a trial: engines go back to where prompts have ended
    answered = [answers(question, answer(endpoint, reading.asked(question))) for question in reading.questions]
    told: Expected = []
    with suppress(NoProbabilitiesError):
        told = expected(up, spec, reading)
    return EngineReference(characters, told, answered)


@contextmanager
def refusing() -> Iterator[None]:
    """Requests of a trial: what the engine does not answer is what its flags came to.

    Raises:
        RefusedError: it refuses a request, or answers no more.
    """
    try:
        yield
    except ProbeError as error:
        raise RefusedError(error.problem, error.remedy) from error


def answer(endpoint: Endpoint, prompt: str) -> str:
    """What an engine goes on with; empty where it ends at once."""
    with suppress(NoTextError):
        return endpoint.ask(prompt, ANSWER_TOKENS).text
    return ""


def _characters(up: RunningEngine, endpoint: Endpoint, text: str) -> float:
    """Characters per token: by the engine's own tokens where it tells them, else by two requests."""
    sample = text[:SAMPLE_CHARACTERS]
    pieces = up.engine.pieces(up.host, up.model, sample)
    if isinstance(pieces[0], str):
        return PromptMaker.measured(endpoint, text).characters_per_token
    return len(sample) / len(pieces)


def divergence(p: NextToken, q: NextToken) -> tuple[float, float]:
    """Kullback-Leibler divergence in nats of q from p over the tokens that both name and the rest as one; p's rest.

    Joining outcomes can only lower a divergence: the true one is at least this.
    """
    shared = sorted(p.keys() & q.keys())
    kld = sum(math.exp(p[token]) * (p[token] - q[token]) for token in shared)
    rest_p, rest_q = (max(1.0 - sum(math.exp(one[token]) for token in shared), 1e-9) for one in (p, q))
    return max(0.0, kld + rest_p * math.log(rest_p / rest_q)), rest_p


def metrics(exact: Expected, found: Expected) -> tuple[list[Metric], dict[str, tuple[float, ...]]]:
    """Divergence with its upper 95% limit (Student's t over the windows), same top token, and what is not named."""
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


def retrieval(exact: Sequence[bool], found: Sequence[bool]) -> Iterator[Metric]:
    """Shares of the questions that the run and the 16-bit run answer, and of the latter's those that the run does."""
    if not exact:
        return
    yield Metric.of("answered", sum(found) / len(found), "share", len(found))
    yield Metric.of("answered_16bit", sum(exact) / len(exact), "share", len(exact))
    if any(exact):
        yield Metric.of(
            "kept", sum(a and b for a, b in zip(exact, found, strict=True)) / sum(exact), "share", sum(exact)
        )


def _by_window(values: Any) -> tuple[float, ...]:
    return tuple(map(float, values.mean(-1)))


def _top(tokens: NextToken) -> str:
    return max(tokens, key=tokens.__getitem__)


def notes(engine: StartableEngine, exact: EngineReference) -> str:
    """In words what was compared."""
    asked = len(exact.answered)
    questions = f"; {asked} questions about hidden facts, of which it answers {sum(exact.answered)}" if asked else ""
    if not exact.expected:
        return f"speed only: the engine tells no probabilities{questions}"
    return (
        f"{len(exact.expected)} next tokens behind the prompt against {engine.title} without flags, over the "
        f"{engine.top_tokens} likeliest and all others as one{questions}"
    )
