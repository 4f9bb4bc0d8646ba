"""Scribe: a few sentences for people, in which every number is a reference. What the data does not carry is cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, StringConstraints

from swarm.agents.generation.context import ProposalContext
from swarm.agents.llm import choices
from swarm.agents.llm.dialogue import Used
from swarm.agents.llm.roles.base import Contribution, Role, Shape
from swarm.agents.writing.checks import problems, too_long
from swarm.agents.writing.references import PATTERN, Resolver
from swarm.agents.writing.summary import body, summarise
from swarm.memory.records import FindingRecord

MAX_SENTENCES = 6
MAX_SENTENCE_CHARS = 500
MAX_FINDINGS = 10
MAX_STATEMENT_CHARS = 160
LEADS = ("Worth knowing", "Also seen", "Worth another look", "Easily overlooked")
"""How a sentence begins where the answer is held to a schema."""

MAX_OWN_WORDS = 8
"""Words of a sentence beside its references: nobody checks what they say."""


class Sentences(Shape):
    """The answer of the scribe."""

    sentences: list[str]


class ScribeRole(Role[Sentences]):
    """Sentences are judged one by one; a wrong one, or one that adds nothing to the built-in summary, is left out."""

    name = "scribe"
    reads = ("findings", "reviews", "models", "best", "credit")
    item_tokens = 60
    answer = Sentences

    def task(self, context: ProposalContext) -> Mapping[str, Any]:
        """The findings that the built-in summary does not show."""
        new = {record.id: record.finding.statement[:MAX_STATEMENT_CHARS] for record in _not_shown(context)}
        return {
            "sentences": MAX_SENTENCES,
            "finding_reference": "{finding:ID:says}, {finding:ID:effect}, {finding:ID:status}",
            "findings": {f"finding:{identity}": text for identity, text in new.items()},
        }

    def choices(self, context: ProposalContext, most: int) -> type[BaseModel] | None:
        """The statement of a finding that is not shown yet, with a few words before it and its effect behind it."""
        ids = [record.id for record in _not_shown(context)]
        if not ids:
            return None
        quoted = "|".join(rf"\{{finding:{i}:says\}}( Measured: \{{finding:{i}:effect\}}\.)?" for i in ids)
        sentence = Annotated[str, StringConstraints(pattern=rf"^({'|'.join(LEADS)}): ({quoted})$")]
        return choices.shape("Sentences", sentences=choices.list_of(sentence, min(most, MAX_SENTENCES)))

    def use(self, answer: Sentences, context: ProposalContext) -> Used[Contribution]:
        """The sentences that pass and tell of a finding that the built-in summary does not show."""
        resolver = Resolver(context.history, context.settings)
        new = {str(record.id) for record in _not_shown(context)}
        kept, reasons, judged = [], [], False
        for sentence in dict.fromkeys(
            " ".join(s.split())[:MAX_SENTENCE_CHARS] for s in answer.sentences[: 2 * MAX_SENTENCES]
        ):
            if not sentence:
                continue
            found, told = problems(sentence, resolver), _told(sentence) & new
            # What quotes a finding can be judged, and so can what is right and quotes none.
            judged |= bool(told) or not found
            if not told:
                found = found or ["it tells nothing that the summary does not show already."]
            if len(_told(sentence)) > 1:
                found = found or ["it mixes up findings: one sentence is about one of them."]
            if len(PATTERN.sub("", sentence).split()) > MAX_OWN_WORDS:
                found = found or [f"it says too much of its own: at most {MAX_OWN_WORDS} words beside the references."]
            found = found or too_long(resolver.render(sentence))
            if found:
                reasons.append(f"{found[0]} ({sentence[:120]})")
            else:
                kept.append(sentence)
        if not answer.sentences:
            reasons.append("the list of sentences is empty")
        text = " ".join(kept[:MAX_SENTENCES])
        return Used(Contribution(text=text) if kept else None, tuple(reasons), judged)


def _told(text: str) -> set[str]:
    """Ids of the findings that a text refers to."""
    return {match.group(2).partition(":")[0] for match in PATTERN.finditer(text) if match.group(1) == "finding"}


def _not_shown(context: ProposalContext) -> list[FindingRecord]:
    """The latest findings that stand and are in the list of all claims, but not in the text of the built-in summary."""
    text = summarise(context.history, context.infos, context.settings).text
    listed = _told(text) - _told(body(text))
    standing = [record for record in context.history.findings if record.finding.status != "refuted"]
    return [record for record in standing if str(record.id) in listed][-MAX_FINDINGS:]
