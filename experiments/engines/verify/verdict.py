"""The test: which features change log-probabilities by more than computing in another order does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil, exp, inf, log

from swarm.experiments.engines.verify.answers import ServerUnderTest
from swarm.experiments.engines.verify.features import Feature, Pair, Round, Texts
from swarm.experiments.measurement.decision import Bets, Plan
from swarm.kernels.values import FrozenModel

ALPHA = 0.01
"""Probability that any feature of a clean server is blamed in a whole run."""

FACTOR = 3.0
"""How many times as large as calibrations almost always are a difference must be to count."""

RARE = 0.1
"""How often a difference of a clean server counts at most."""

FLOOR = 1e-3
"""Nats below which no difference counts."""

MIN_CALIBRATIONS = 6
"""Calibrations before the first difference is judged."""

PLAN: Plan = ((10.0, 0.25), (30.0, 0.25), (50.0, 0.5))
"""A fault shows in most rounds or only in some, nobody knows: shares of the stake, with distances in margins."""

MAX_LOG = 700.0
"""Logarithm of the largest capital that is shown."""

Tell = Callable[[str], None]


class FeatureEvidence(FrozenModel):
    """What is known of one feature at the end.

    Attributes:
        feature: its name.
        what: it in words.
        rounds: how many rounds it was judged in.
        exceeded: in how many of them the difference counted.
        largest: the largest difference in nats.
        worst_round: the round of that.
        e_value: capital of the bet that the feature is at fault; 1 / alpha and more, over all features, blames it.
        blamed: whether it is.
        cached: the most tokens that the server said it took from an earlier prompt; None where it does not say.
    """

    feature: str
    what: str
    rounds: int
    exceeded: int
    largest: float
    worst_round: int
    e_value: float
    blamed: bool
    cached: int | None


class Verification(FrozenModel):
    """What a whole run says: `noise` is the largest calibration in nats."""

    rounds: int
    seconds: float
    calibrations: int
    noise: float
    suspicions: tuple[FeatureEvidence, ...]

    @property
    def blamed(self) -> tuple[FeatureEvidence, ...]:
        """The features at fault, the largest evidence first."""
        return tuple(sorted((s for s in self.suspicions if s.blamed), key=lambda s: -s.e_value))

    @property
    def is_undecided(self) -> bool:
        """Whether no feature was judged, as calibrations were too few."""
        return not any(suspicion.rounds for suspicion in self.suspicions)


@dataclass
class _Case:
    """The evidence against one feature."""

    feature: Feature
    calibrations: list[float] = field(default_factory=list)
    bets: Bets = field(default_factory=lambda: Bets(PLAN, RARE, 1, least=0.0))
    waiting: list[tuple[int, float]] = field(default_factory=list)
    judged: list[tuple[int, float]] = field(default_factory=list)
    exceeded: int = 0
    cached: int | None = None

    def take(self, number: int, pairs: Sequence[Pair]) -> None:
        found = _differences(pairs)
        if found:
            self.waiting.append((number, max(found)))
        self.cached = max((n for n in (self.cached, *(pair.cached for pair in pairs)) if n is not None), default=None)

    def judge(self, limit: float) -> None:
        for number, difference in self.waiting:
            square = (1 + self.exceeded) / (1 + len(self.judged))
            counts = difference > limit
            self.bets.settle(float(counts), square)
            self.exceeded += counts
            self.judged.append((number, difference))
        self.waiting.clear()


def run(
    server: ServerUnderTest,
    texts: Texts,
    features: Sequence[Feature],
    *,
    tokens: int,
    clients: int,
    rounds: int,
    seconds: float,
    against: ServerUnderTest | None = None,
    tell: Tell = lambda _: None,
) -> Verification:
    """Test a server until a feature is blamed, none can be in the rounds that are left, or time is used up.

    Every round reads new prompts. Calibrations are differences between positions that were generated and the same
    positions read as part of a prompt; they show what another order of computing does to this server, rounding of a
    quantized cache included. A difference counts when it is more than `FACTOR` times what a further one exceeds once in
    ten times. On a clean server that happens in at most one round of ten: who bets on more often multiplies his stake
    by 1 / alpha with probability alpha at most, whenever one looks (Ville). Stakes are shared equally among features.

    Args:
        server: the server.
        texts: where prompts come from.
        features: what to test.
        tokens: tokens of a prompt.
        clients: prompts asked at the same moment.
        rounds: rounds at most.
        seconds: time at most; a round that was begun is finished.
        against: another server of the same model to compare with, in the place of the server itself.
        tell: told in words how it goes.

    Raises:
        RefusedError: the server does not answer, or without log-probabilities.
    """
    begun = time.monotonic()
    cases = [_Case(feature) for feature in features]
    calibrations: list[float] = []
    number = 0
    for number in range(1, rounds + 1):
        round_ = Round(server, texts.of(number), tokens, clients, against)
        calibrations += _differences(round_.calibrations())
        for case in cases:
            case.take(number, case.feature.measure(round_))
            case.calibrations += _differences(case.feature.calibrate(round_))
        if len(calibrations) >= MIN_CALIBRATIONS:
            for case in cases:
                case.judge(max(FLOOR, FACTOR * max(quantile(calibrations), quantile(case.calibrations))))
        told = ", ".join(f"{case.feature.name} {case.exceeded}/{len(case.judged)}" for case in cases)
        tell(f"round {number}: noise {max(calibrations, default=0.0):.2g} nat; {told}")
        if any(_blamed(case, len(cases)) for case in cases) or time.monotonic() - begun > seconds:
            break
        judged = len(calibrations) >= MIN_CALIBRATIONS
        if judged and not any(_may_be_blamed(case, rounds - number, len(cases)) for case in cases):
            break
    every = [*calibrations, *(found for case in cases for found in case.calibrations)]
    return Verification(
        rounds=number,
        seconds=time.monotonic() - begun,
        calibrations=len(every),
        noise=max(every, default=0.0),
        suspicions=tuple(_suspicion(case, len(cases)) for case in cases),
    )


def quantile(calibrations: Sequence[float]) -> float:
    """What a further calibration exceeds with probability `RARE` at most, if it comes from where these come from.

    With fewer than nine of them their largest, which is exceeded more often: `FACTOR` stands for that. 0 without any.
    """
    place = ceil((len(calibrations) + 1) * (1 - RARE))
    return sorted(calibrations)[min(place, len(calibrations)) - 1] if calibrations else 0.0


def _differences(pairs: Sequence[Pair]) -> list[float]:
    return [pair.difference for pair in pairs if pair.difference is not None]


def _blamed(case: _Case, n_features: int) -> bool:
    return case.bets.log_capital >= log(n_features / ALPHA)


def _may_be_blamed(case: _Case, rounds: int, n_features: int) -> bool:
    """Whether the feature would be blamed if it were at fault in so many further rounds, all of them."""
    best = deepcopy(case)
    best.waiting = [(0, inf)] * rounds
    best.judge(0.0)
    return _blamed(best, n_features)


def _suspicion(case: _Case, n_features: int) -> FeatureEvidence:
    worst, largest = max(case.judged, key=lambda one: one[1], default=(0, 0.0))
    return FeatureEvidence(
        feature=case.feature.name,
        what=case.feature.what,
        rounds=len(case.judged),
        exceeded=case.exceeded,
        largest=largest,
        worst_round=worst,
        e_value=exp(min(case.bets.log_capital, MAX_LOG)),
        blamed=_blamed(case, n_features),
        cached=case.cached,
    )
