"""Writes rows to files: JSON, JSON lines, CSV, Parquet."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text as sql

from swarm.kernels.errors import UsageError
from swarm.memory.errors import StoreError
from swarm.memory.query import plain
from swarm.memory.store import Store

_CHUNK = 5_000

Rows = Iterable[Sequence[Any]]


def finite(record: dict[str, Any]) -> dict[str, Any]:
    """A record that JSON can hold: NaN and infinities become null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}


def write(columns: Sequence[str], rows: Rows, path: Path) -> int:
    """Write rows to a file whose name ends in .csv, .jsonl, .json or .parquet; returns how many there were.

    The file appears whole or not at all.

    Raises:
        UsageError: another ending, or Parquet without pyarrow.
        StoreError: the file cannot be written.
    """
    writer = _FILES.get(path.suffix.lower())
    if writer is None:
        raise UsageError(f"{path.name} does not say its format.", f"End its name in {', '.join(_FILES)}.")
    partial = path.with_name(f".{path.name}.partial")
    count = 0

    def counted() -> Iterator[Any]:
        nonlocal count
        for row in rows:
            count += 1
            yield row

    try:
        writer(partial, columns, counted())
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror}).", "Check the space and permissions there."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return count


def trials(store: Store, path: Path, campaign_id: int | None = None) -> int:
    """Write all trials to a file; returns how many there were.

    JSON lines hold the whole records (specification, arrays, environment), the others the columns of the view
    `trial_metrics` and the specification as JSON.
    """
    if path.suffix.lower() == ".jsonl":
        lines = (json.loads(record.model_dump_json()) for record in _records(store, campaign_id))
        return write((), lines, path)
    where = "" if campaign_id is None else "WHERE v.campaign_id = :campaign"
    query = f"SELECT v.*, t.spec FROM trial_metrics v JOIN trials t ON t.id = v.trial_id {where} ORDER BY v.trial_id"  # noqa: S608
    with store.database.read() as connection:
        parameters = {} if campaign_id is None else {"campaign": campaign_id}
        found = connection.execution_options(yield_per=_CHUNK).execute(sql(query), parameters)
        columns = list(found.keys())
        return write(
            columns, ([json.dumps(v) if isinstance(v, dict | list) else plain(v) for v in row] for row in found), path
        )


def _records(store: Store, campaign_id: int | None) -> Iterator[Any]:
    for campaign in [c.id for c in store.campaigns.list()] if campaign_id is None else [campaign_id]:
        last = -1
        while found := store.trials.list(campaign, after=last, limit=_CHUNK // 10):
            yield from found
            last = found[-1].number


def _csv_file(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def _jsonl_file(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            record = row if isinstance(row, dict) else finite(dict(zip(columns, row, strict=True)))
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def _json_file(path: Path, columns: Sequence[str], rows: Rows) -> None:
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for row in rows:
            file.write(separator + json.dumps(finite(dict(zip(columns, row, strict=True))), ensure_ascii=False))
            separator = ",\n"
        file.write("\n]\n" if separator == ",\n" else "[]\n")


def _parquet_file(path: Path, columns: Sequence[str], rows: Rows) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise UsageError(
            "Parquet needs the pyarrow package.", "pip install 'kv-swarm[parquet]', or export CSV."
        ) from error
    chunks = []
    pending: list[Sequence[Any]] = []
    for row in rows:
        pending.append(row)
        if len(pending) == 10 * _CHUNK:
            chunks.append(pa.table(dict(zip(columns, zip(*pending, strict=True), strict=True))))
            pending = []
    if pending or not chunks:
        series: list[Sequence[Any]] = list(zip(*pending, strict=True)) or [() for _ in columns]
        chunks.append(pa.table([pa.array(values) for values in series], names=list(columns)))
    # A column that is empty in one chunk has no type there: it takes the type that others give it.
    pq.write_table(pa.concat_tables(chunks, promote_options="permissive"), path)


_FILES: dict[str, Callable[[Path, Sequence[str], Rows], None]] = {
    ".csv": _csv_file,
    ".jsonl": _jsonl_file,
    ".json": _json_file,
    ".parquet": _parquet_file,
}
