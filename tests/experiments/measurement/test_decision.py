"""The sequential test of a mean loss: its error rates over seeds, its savings, its bad input."""

from itertools import chain, islice

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.experiments.measurement.decision import decide
from swarm.experiments.measurement.question_losses import question_losses
from swarm.kernels.errors import UsageError

SEEDS = range(200)


def losses(loss: float, discordant: float, seed: int, most: int = 1_500):
    """Paired losses of -1, 0 or 1 with a mean of `loss`."""
    rng = np.random.default_rng(seed)
    odds = ((discordant - loss) / 2, 1 - discordant, (discordant + loss) / 2)
    return (float(x) for x in rng.choice((-1, 0, 1), size=most, p=odds))


def decisions(loss: float, discordant: float, margin: float = 0.05):
    return [decide(losses(loss, discordant, seed), margin) for seed in SEEDS]


@pytest.mark.parametrize("discordant", [0.1, 0.4])
def test_at_the_margin_neither_verdict_is_given_more_often_than_alpha_allows(discordant):
    found = [d.outcome for d in decisions(0.05, discordant)]
    # 18 of 200 or more have a probability of 1% where the rate is 5%.
    assert max(found.count("safe"), found.count("harmful")) < 18


@pytest.mark.parametrize(("loss", "right"), [(0.0, "safe"), (-0.03, "safe"), (0.12, "harmful"), (0.15, "harmful")])
def test_clear_cases_are_decided_rightly_and_early(loss, right):
    found = decisions(loss, 0.2)
    assert [d.outcome for d in found].count(right) >= 0.95 * len(found)
    variance, z = 0.2 - loss**2, 1.645 + 2.326  # 5% error, 99% power
    assert np.mean([d.items for d in found]) <= 0.55 * z**2 * variance / (loss - 0.05) ** 2


def test_no_item_is_read_after_the_verdict():
    read = []
    decision = decide((read.append(x) or x for x in [1.0] * 100), margin=0.01)
    assert decision.outcome == "harmful"
    assert decision.items == len(read) < 20
    assert decision.loss == 1.0


def test_equal_scores_are_safe_after_as_many_items_as_the_margin_asks_for():
    assert decide([0.0] * 1_000, margin=0.01).outcome == "safe"
    assert decide([0.0] * 100, margin=0.01).outcome == "undecided"
    assert decide([], margin=0.01).items == 0


@given(st.lists(st.floats(-1, 1), max_size=200), st.floats(0.001, 0.9), st.floats(0.001, 0.4))
@settings(max_examples=100, deadline=None)
def test_a_stricter_error_rate_never_decides_earlier(series, margin, alpha):
    loose, strict = decide(series, margin, alpha), decide(series, margin, alpha / 2)
    assert loose.items <= strict.items
    assert strict.outcome in ("undecided", loose.outcome) or strict.items > loose.items


@pytest.mark.parametrize("series", [[1.5], [float("nan")], [0.0, -2.0]])
def test_losses_out_of_range_are_refused(series):
    with pytest.raises(UsageError, match="between -1 and 1"):
        decide(series)


@pytest.mark.parametrize(
    ("margin", "alpha"), [(0.0, 0.05), (1.0, 0.05), (float("nan"), 0.05), (0.01, 0.0), (0.01, 0.6)]
)
def test_a_margin_or_an_error_rate_without_meaning_is_refused(margin, alpha):
    with pytest.raises(UsageError):
        decide([0.0], margin, alpha)


def run_that_loses(share, answered=0.5):
    """Trials in which 16 bit answers a share of 24 questions, and the quantized run loses a share of those."""

    def run(spec):
        rng = np.random.default_rng([1, spec.replicate])
        exact = (rng.random(24) < answered).astype(float)
        found = exact * (rng.random(24) >= share)
        arrays = {"item_match": found, "item_match_16bit": exact, "item_p": found / 2, "item_p_16bit": exact / 2}
        return samples.measurement().model_copy(update={"arrays": {k: tuple(v.tolist()) for k, v in arrays.items()}})

    return run


SPEC = samples.spec(protocol="retrieval", context=2048)


@pytest.mark.parametrize(("share", "outcome"), [(0.0, "safe"), (0.2, "harmful")])
@pytest.mark.parametrize("score", ["match", "p"])
def test_questions_are_asked_until_it_is_decided(share, outcome, score):
    losses = chain.from_iterable(question_losses(run_that_loses(share), SPEC, score))
    found = decide(islice(losses, 5_000))
    assert found.outcome == outcome
    assert found.items < 5_000


def test_losses_are_paired_shuffled_and_follow_from_the_replicate():
    def losses(spec):
        return list(islice(question_losses(run_that_loses(0.3), spec), 3))

    found = losses(SPEC)
    assert found == losses(SPEC)
    assert found[1:] == losses(SPEC.model_copy(update={"replicate": 1}))[:2]
    arrays = run_that_loses(0.3)(SPEC).arrays
    plain = np.subtract(arrays["item_match_16bit"], arrays["item_match"]).tolist()
    assert sorted(found[0]) == sorted(plain)
    assert found[0] != plain


def test_a_model_that_answers_nothing_in_16_bit_can_lose_nothing():
    with pytest.raises(UsageError, match="none of 24 questions"):
        next(question_losses(run_that_loses(0.3, answered=0.0), SPEC))
