"""Prompts of a wanted number of tokens for an engine whose tokenizer is not known."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import count

from swarm.experiments.engines.probe.endpoint import Endpoint, insist

SAMPLE_CHARACTERS = 2_000
USUAL_CHARACTERS_PER_TOKEN = 4.0
CLOSING = "\n\nIn other words: "


@dataclass(frozen=True)
class PromptMaker:
    """Cuts prompts out of a text.

    `characters_per_token` and `fixed_tokens` (template, beginning-of-sequence) were measured on the engine itself,
    unless it does not count prompt tokens: then `counted` is false and the usual ratio of English is taken.
    """

    text: str
    characters_per_token: float
    fixed_tokens: float
    counted: bool = True

    @classmethod
    def measured(cls, endpoint: Endpoint, text: str) -> PromptMaker:
        """Fit both numbers to two short prompts. The first request also loads the model, so nothing is timed.

        Raises:
            ProbeError: the endpoint does not answer.
        """

        def counted(length: int) -> int:
            return insist(lambda: endpoint.ask(_fresh(text[:length]), 2)).prompt_tokens

        lengths = (SAMPLE_CHARACTERS // 8, SAMPLE_CHARACTERS)
        asked = [counted(length) for length in lengths]
        added = len(_fresh(""))
        if asked[1] <= asked[0]:
            return cls(text, USUAL_CHARACTERS_PER_TOKEN, 0.0, counted=False)
        ratio = (lengths[1] - lengths[0]) / (asked[1] - asked[0])
        return cls(text, ratio, max(0.0, asked[0] - (lengths[0] + added) / ratio))

    def prefix(self, tokens: int) -> str:
        """A text of about so many tokens that no engine has seen before, so that no cache can answer it."""
        wanted = max(
            1, round((tokens - self.fixed_tokens) * self.characters_per_token) - len(_fresh("")) - len(CLOSING)
        )
        pieces, length = [], 0
        for round_ in count():
            piece = self.text if round_ == 0 else f"\n\nPart {round_ + 1}.\n\n{self.text}"
            pieces.append(piece[: wanted - length])
            length += len(pieces[-1])
            if length >= wanted:
                return _fresh("".join(pieces))
        raise AssertionError

    def question(self, variant: int) -> str:
        """An end of the prompt; variants differ, so that prompts may share a prefix and nothing more."""
        return f"{CLOSING}{('Thus', 'Hence', 'So')[variant % 3]}"


def _fresh(text: str) -> str:
    # Engines keep the caches of earlier prompts: what is to be computed anew must begin with what they never saw.
    return f"[{secrets.token_hex(8)}]\n{text}"
