"""What an LLM may look up: read-only questions to the store, bounded in time and size. Nothing can be changed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import SwarmError

if TYPE_CHECKING:
    from swarm.memory.store import Store

MAX_ROWS = 40
MAX_SECONDS = 2.0
MAX_CHARS = 6_000


def declared() -> list[dict[str, Any]]:
    """The tools as chat completions declare them."""
    from swarm.memory.views import VIEWS

    views = " ".join(f"{name}: {view.summary}" for name, view in VIEWS.items())
    return [
        _tool(
            "query", "Read the shared memory with SQL.", "sql", f"One SELECT, at most {MAX_ROWS} rows. Views: {views}"
        ),
        _tool("search_findings", "Findings that hold all the words.", "words", "Words to look for."),
    ]


def _tool(name: str, description: str, argument: str, meaning: str) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {argument: {"type": "string", "description": meaning}},
                "required": [argument],
                "additionalProperties": False,
            },
        },
    }


@dataclass(frozen=True)
class Tools:
    """The tools of one campaign's LLM."""

    store: Store
    campaign_id: int

    def use(self, name: str, arguments: str) -> str:
        """The answer to a tool call as text; mistakes are answers too, so that the model can correct itself."""
        if name not in ("query", "search_findings"):
            return f"error: there is no tool {name!r}; there are query, search_findings."
        answer: Any
        try:
            (value,) = json.loads(arguments).values()
            if name == "query":
                result = self.store.query(str(value), limit=MAX_ROWS, seconds=MAX_SECONDS)
                answer = {"rows": result.records(), "more": result.truncated}
            else:
                found = self.store.findings.search(str(value), self.campaign_id, limit=10)
                answer = [{"id": f.id, "status": f.finding.status, "statement": f.finding.statement} for f in found]
        except (ValueError, AttributeError, RecursionError) as error:
            return f"error: the arguments cannot be read ({str(error)[:100]})."
        except SwarmError as error:
            return f"error: {error}"
        text = json.dumps(answer, ensure_ascii=False, default=str)
        return text if len(text) <= MAX_CHARS else text[:MAX_CHARS] + " ... (cut)"
