"""Which configurations are on the front of KLD, bits and measured microseconds; nothing where no kernel was timed."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.orchestrator.pages.blocks import Block, Columns, Num, Paragraph, Ref, Table, Tag
from swarm.orchestrator.views.source import Source
from swarm.orchestrator.views.speed import speed_rows

TITLE = "Speed beside quality"
PLACE = 15
_TIMED = """SELECT t.id FROM trials t JOIN measurements m ON m.trial_id = t.id
WHERE t.campaign_id = {campaign} AND t.protocol = 'attention' AND m.unit = 'us'"""


def blocks(source: Source) -> Sequence[Block]:
    """A table per model."""
    if not source.rows(_TIMED, 1):
        return []
    rows = speed_rows(source)
    text = (
        "Configurations whose formats a kernel reads, with microseconds of one decode step of one layer (mean over "
        "layers) as attention trials timed them, and of 16-bit attention at the same context. On the front are those "
        "that no other beats in KLD, bits per value and microseconds at once. Sinks, recent tokens in 16 bit and "
        "learned factors are left out of the times."
    )
    tables = [
        Table.of(f"{model}, {rows_of[0]['context']:,} tokens, {rows_of[0]['device']}", rows_of, COLUMNS)
        for model in source.models
        if (rows_of := [row for row in rows if row["model"] == model])
    ]
    return [Paragraph(text), *tables] if tables else []


COLUMNS: Columns = {
    Num("µs"): "decode_us",
    Num("µs in 16 bit"): "decode_us_16",
    Num("KLD"): "kld",
    Num("Bits/value"): "bits_per_value",
    "Front": lambda row: Tag("front", "good") if row["front"] else Tag("beaten"),
    "Configuration": "configuration",
    "Trial": lambda row: Ref("trial", row["trial_id"]),
    "Timed by": lambda row: Ref("trial", row["timed_by"]),
}
