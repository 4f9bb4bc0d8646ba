"""Full-text search over findings: FTS5 on SQLite, a GIN index on PostgreSQL. Knows both indexes' SQL."""

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


_CREATE = {
    "sqlite": (
        """CREATE VIRTUAL TABLE findings_fts USING fts5(
            statement, key, models, author, content='findings', content_rowid='id', tokenize='porter unicode61')""",
        """CREATE TRIGGER findings_fts_insert AFTER INSERT ON findings BEGIN
            INSERT INTO findings_fts(rowid, statement, key, models, author)
            VALUES (new.id, new.statement, new.key, new.models, new.author);
        END""",
        """CREATE TRIGGER findings_fts_delete AFTER DELETE ON findings BEGIN
            INSERT INTO findings_fts(findings_fts, rowid, statement, key, models, author)
            VALUES ('delete', old.id, old.statement, old.key, old.models, old.author);
        END""",
        """CREATE TRIGGER findings_fts_update AFTER UPDATE ON findings BEGIN
            INSERT INTO findings_fts(findings_fts, rowid, statement, key, models, author)
            VALUES ('delete', old.id, old.statement, old.key, old.models, old.author);
            INSERT INTO findings_fts(rowid, statement, key, models, author)
            VALUES (new.id, new.statement, new.key, new.models, new.author);
        END""",
    ),
    "postgresql": (
        # Punctuation is a blank here as it is on SQLite, so that `turboquant_mse` is found by either half.
        r"""CREATE FUNCTION findings_text(statement text, key text, models jsonb, author text) RETURNS tsvector
            LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
            SELECT to_tsvector('english'::regconfig, regexp_replace(
                statement || ' ' || key || ' ' || models::text || ' ' || author, '[^[:alnum:]]+', ' ', 'g'))
        $$""",
        "CREATE INDEX findings_fts ON findings USING gin (findings_text(statement, key, models, author))",
    ),
}


def create(connection: Connection) -> None:
    """Make the index; what is in the table later enters it by itself."""
    for statement in _CREATE[connection.dialect.name]:
        connection.exec_driver_sql(statement)


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
