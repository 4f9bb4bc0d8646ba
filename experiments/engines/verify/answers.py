"""A server asked for the log-probabilities of what it generates, with or without what it remembers."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import exp
from typing import Any

from swarm.experiments.engines.base import Engine, Host
from swarm.experiments.engines.run.startable import NoProbabilitiesError, RefusedError

TOP = 10
"""Likeliest tokens that are asked for; mlx_lm.server gives no more."""
FEWEST = 5
"""Those that are asked for where a server refuses more, as OpenAI's own does."""

VOCABULARY_SPACES = ("\u0120", "\u2581")
"""How vocabularies of bytes and of SentencePiece write a space."""

Top = Mapping[str, float]
"""Log-probabilities (nats) of the likeliest tokens at one position, by what names the token."""


@dataclass(frozen=True)
class Answer:
    """What a server generated greedily.

    Attributes:
        tops: at each position the likeliest tokens.
        text: what was generated.
        prompt_tokens: how many tokens the prompt had, 0 where it does not say.
        cached: how many of them it did not compute again, None where it does not say.
    """

    tops: tuple[Top, ...]
    text: str
    prompt_tokens: int
    cached: int | None


class ServerUnderTest:
    """A server under test.

    Args:
        host: where it is.
        engine: which engine it is.
        model: what it calls its model.
        remembered: how many prompts it remembers, where it cannot be told to forget them: so many others are asked
            before a prompt that is to be computed anew.
    """

    def __init__(self, host: Host, engine: Engine, model: str, remembered: int | None = None) -> None:
        self.engine = engine
        self.model = model
        self._host = host
        self._top = TOP
        self._remembered = engine.remembered_prompts if remembered is None else remembered

    def fresh(self, prompts: Sequence[str], tokens: int) -> list[Answer]:
        """Generate after prompts of which nothing may be remembered, one after the other.

        Raises:
            NoProbabilitiesError: an answer has no log-probabilities.
            RefusedError: there is no answer.
        """
        self.forget()
        return [self.ask(prompt, tokens, self.engine.fresh_fields()) for prompt in prompts]

    def forget(self) -> None:
        """Fill the memory for prompts with others, where a request cannot say that nothing is to be remembered."""
        if self.engine.fresh_fields() is None:
            for _ in range(self._remembered + 1):
                self.ask(secrets.token_hex(2), 1)

    def ask(self, prompt: str, tokens: int, fields: Mapping[str, Any] | None = None) -> Answer:
        """Generate after a prompt, of which the server may remember what it likes; errors as for `fresh`."""
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        options = {**self.engine.extra_body, **self.engine.probability_fields(self._top), **(fields or {})}
        reply = self._host.post("/v1/completions", {**body, **options})
        if reply.status in (400, 422) and "logprob" in reply.reason and self._top > FEWEST:
            self._top = FEWEST
            return self.ask(prompt, tokens, fields)
        choices = reply.entries("choices")
        if reply.status != 200 or not choices:
            raise RefusedError(f"{self.engine.title} refuses a completion: {reply.reason}.", "See the engine's log.")
        tops = tuple(_tops(choices[0].get("logprobs")))
        if not tops:
            raise NoProbabilitiesError(
                f"{self.engine.title} sends no log-probabilities.", "Its speed can be measured: `swarm probe`."
            )
        usage = reply.field("usage") or {}
        text = str(choices[0].get("text") or "")
        return Answer(
            tops=tops,
            text=text if text.startswith(" ") else _space(choices[0]["logprobs"]) + text,
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            cached=(usage.get("prompt_tokens_details") or {}).get("cached_tokens"),
        )

    def together(self, prompts: Sequence[str], tokens: int) -> list[Answer]:
        """Ask several prompts at the same moment."""
        fields = self.engine.fresh_fields()
        with ThreadPoolExecutor(len(prompts)) as pool:
            return list(pool.map(lambda prompt: self.ask(prompt, tokens, fields), prompts))


def _tops(told: Any) -> list[Top]:
    """The likeliest tokens per position, from either form in which servers send them."""
    if not isinstance(told, dict):
        return []
    if isinstance(told.get("content"), list):
        return [
            {str(entry.get("id", entry.get("token"))): float(entry["logprob"]) for entry in place["top_logprobs"]}
            for place in told["content"]
            if place.get("top_logprobs")
        ]
    return [{token: float(logprob) for token, logprob in place.items()} for place in told.get("top_logprobs") or ()]


def _space(told: Mapping[str, Any]) -> str:
    """The space before the first token where its name has one in the way of vocabularies: mlx_lm leaves it out."""
    places = told.get("content")
    if not isinstance(places, list):
        return ""
    top = max(places[0]["top_logprobs"], key=lambda entry: float(entry["logprob"]))
    return " " if str(top.get("token", "")).startswith(VOCABULARY_SPACES) else ""


def difference(reference: Sequence[Top], other: Sequence[Top]) -> float | None:
    """Mean absolute difference of log-probabilities in nats, weighted by the reference's probabilities.

    Positions count up to the first at which the likeliest token differs, as contexts are the same until there. A token
    that the other does not list counts with the least that it lists. None where there is no common position.
    """
    found = []
    for a, b in zip(reference, other, strict=False):
        least = min(b.values())
        found.append(sum(exp(p) * (abs(p - b[t]) if t in b else max(0.0, p - least)) for t, p in a.items()))
        if max(a, key=a.__getitem__) != max(b, key=b.__getitem__):
            break
    return sum(found) / len(found) if found else None
