"""Full-text search over findings: FTS5 on SQLite, a GIN index on PostgreSQL.

Knows how to ask; migrations make the indexes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from sqlalchemy import Connection, text

from swarm.memory.text import clean

_SQLITE_SEARCH = "SELECT rowid FROM findings_fts WHERE findings_fts MATCH :words ORDER BY rank LIMIT :limit"

_POSTGRESQL_SEARCH = """
SELECT id FROM findings WHERE findings_text(statement, key, models, author) @@ to_tsquery('english', :words)
ORDER BY ts_rank(findings_text(statement, key, models, author), to_tsquery('english', :words)) DESC, id LIMIT :limit
"""


class _Search(NamedTuple):
    query: str
    phrase: Callable[[list[str]], str]


# Quoted and restricted to letters and digits, a term cannot be an operator of either query language.
_SEARCH = {
    "sqlite": _Search(_SQLITE_SEARCH, lambda terms: " AND ".join(f'"{term}"*' for term in terms)),
    "postgresql": _Search(_POSTGRESQL_SEARCH, lambda terms: " & ".join(f"'{term}':*" for term in terms)),
}


def search(connection: Connection, words: str, limit: int) -> list[int]:
    """Ids of the findings that hold all words, or words that begin so, best first."""
    terms = re.findall(r"[^\W_]+", clean(words, 500))[:20]
    if not terms:
        return []
    dialect = _SEARCH[connection.dialect.name]
    found = connection.execute(text(dialect.query), {"words": dialect.phrase(terms), "limit": limit})
    return [int(row[0]) for row in found]
