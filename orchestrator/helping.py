"""Help like a manual page: examples stand in a section of their own, and can be run as they are."""

from __future__ import annotations

import re
from typing import Any

from typer.core import TyperCommand

_EXAMPLES = re.compile(r"\s*Examples?:\s+(?P<list>`swarm .*)\Z", re.DOTALL)


def split(doc: str) -> tuple[str, list[str]]:
    """A docstring without its closing list of examples, and the examples."""
    found = _EXAMPLES.search(doc)
    if found is None:
        return doc, []
    commands = (" ".join(command.split()) for command in re.findall(r"`(swarm [^`]+)`", found["list"]))
    return doc[: found.start()].rstrip(), list(commands)


class Command(TyperCommand):
    """A command whose epilog is its examples, one per line."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write the examples as they would be typed, however long they are."""
        if self.epilog:
            formatter.write_paragraph()
            formatter.write("Examples:\n" + "".join(f"  {line}\n" for line in self.epilog.split("\n")))
