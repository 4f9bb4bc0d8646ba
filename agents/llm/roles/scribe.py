"""Scribe: a few sentences for people, in which every number is a reference. What the data does not carry is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import Contribution, Role, Shape
from swarm.agents.writing.checks import problems
from swarm.agents.writing.references import Resolver

MAX_SENTENCES = 12
MAX_SENTENCE_CHARS = 500


class Sentences(Shape):
    """The answer of the scribe."""

    sentences: list[str]


class ScribeRole(Role[Sentences]):
    """Sentences are judged one by one; a refused one is left out and its reason is recorded."""

    name = "scribe"
    answer = Sentences

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """The references that may be used."""
        findings = {f"finding:{i}": key for key, i in context.ids.items()}
        return {
            "sentences": MAX_SENTENCES,
            "trial_reference": "{trial:ID:kld}, {trial:ID:bits_per_value}, {trial:ID:label}, {trial:ID:model}",
            "finding_reference": "{finding:ID:statement}, {finding:ID:effect}, {finding:ID:status}",
            "findings": dict(list(findings.items())[-20:]),
            "facts": [f"{{fact:{name}}}" for name in sorted(Resolver(context.history, context.settings).facts)][:30],
        }

    def use(self, answer: Sentences, context: ProposalContext) -> Used[Contribution]:
        """The sentences that pass."""
        resolver = Resolver(context.history, context.settings)
        kept, reasons = [], []
        for sentence in dict.fromkeys(
            " ".join(s.split())[:MAX_SENTENCE_CHARS] for s in answer.sentences[: 2 * MAX_SENTENCES]
        ):
            found = problems(sentence, resolver) if sentence else []
            if found:
                reasons.append(f"{found[0]} ({sentence[:120]})")
            elif sentence:
                kept.append(sentence)
        if not answer.sentences:
            reasons.append("the list of sentences is empty")
        return Used(Contribution(text=" ".join(kept[:MAX_SENTENCES])) if kept else None, tuple(reasons))
