"""Effects in words: the word and the number say the same."""

import pytest

from swarm.agents.analysis import words
from swarm.memory.records import Effect


@pytest.mark.parametrize(
    ("value", "low", "high", "said"),
    [
        (0.5, 0.42, 0.58, "halve the KLD"),
        (2.0, 1.7, 2.3, "double the KLD"),
        (0.11, 0.09, 0.14, "divide the KLD by 9.1"),
        (5.0, 4.0, 6.0, "multiply the KLD by 5"),
        (0.82, 0.7, 0.9, "lower the KLD by 18%"),
        (1.3, 1.2, 1.4, "raise the KLD by 30%"),
        (1.01, 0.93, 1.09, "change nothing"),
        (0.9, 0.7, 1.2, "change nothing that can be told"),
        (0.95, 0.92, 0.98, "change nothing"),
    ],
)
def test_a_ratio_is_said_with_its_direction_and_size(value, low, high, said):
    effect = Effect(name="KLD ratio", value=value, low=low, high=high, unit="ratio")
    assert words.change(effect) == said
    assert words.interval(effect) == f"[{low:.2g}, {high:.2g}]"
