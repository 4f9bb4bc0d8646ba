"""Links the numbers of a summary to the trials that they come from. Knows references and evidence; prints nothing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from swarm.agents.writing.references import PATTERN, Resolver

if TYPE_CHECKING:
    from swarm.agents.history import History


@dataclass(frozen=True)
class Link:
    """One reference of a text: as it is written, as it is shown now, and the trials that carry it."""

    reference: str
    shown: str
    trials: tuple[int, ...]


def links(text: str, resolver: Resolver) -> list[Link]:
    """Every reference of a text once, in the order of the text; a fact comes from all trials and names none."""
    found = dict.fromkeys(match.group(0)[1:-1] for match in PATTERN.finditer(text))
    return [Link(name, _shown(name, resolver), _trials(name, resolver.history)) for name in found]


def linked(text: str, resolver: Resolver) -> str:
    """The text with its references resolved, and where each number comes from: `0.065 [trial 143]`.

    What the same line names anyway is not said again.
    """
    return "\n".join(_line(line, resolver) for line in text.split("\n"))


def _line(line: str, resolver: Resolver) -> str:
    named = {match.group(0)[1:-1] for match in PATTERN.finditer(line) if match.group(2).isdecimal()}

    def replace(match: re.Match[str]) -> str:
        reference = match.group(0)[1:-1]
        shown = _shown(reference, resolver)
        kind, _, rest = reference.partition(":")
        origin = f"{kind}:{rest.partition(':')[0]}"
        if kind == "fact" or origin in named or origin == reference:
            return shown
        return f"{shown} [{origin.replace(':', ' ')}]"

    return PATTERN.sub(replace, line)


def _shown(reference: str, resolver: Resolver) -> str:
    return resolver.render(f"{{{reference}}}")


def _trials(reference: str, history: History) -> tuple[int, ...]:
    kind, _, rest = reference.partition(":")
    identity = rest.partition(":")[0]
    if not identity.isdecimal() or kind == "fact":
        return ()
    if kind == "trial":
        return tuple(r.id for r in history.records if r.id == int(identity))
    return next((f.finding.evidence for f in history.findings if f.id == int(identity)), ())
