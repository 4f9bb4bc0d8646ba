"""Numbers that methods and protocols gave when their `version` was set: they change only together with it.

A record is one entry of a JSON file: the versions that the numbers belong to, and the numbers. `RECORD_GOLDEN=1` writes
records that are missing or of other versions; numbers that changed under the same version are refused even then.
"""

import json
import os
from pathlib import Path

import pytest

TOLERANCE = 1e-3
"""Relative: far above what the rounding of another BLAS changes."""


def check(file: Path, name: str, versions: dict[str, int], numbers: dict[str, float], rel: float = TOLERANCE) -> None:
    """Fail unless the numbers are the recorded ones, or the versions were raised and recorded.

    Args:
        file: the JSON file of records.
        name: what gave the numbers.
        versions: what the numbers depend on, with versions.
        numbers: by what they say; those below 1e-6 may differ by that share of 1e-6.
        rel: relative difference that is no change.
    """
    records = json.loads(file.read_text()) if file.exists() else {}
    record = records.get(name)
    command = f"RECORD_GOLDEN=1 uv run pytest -n 0 {os.environ.get('PYTEST_CURRENT_TEST', '').partition('::')[0]}"
    if record is not None and record["versions"] == versions:
        known = record["numbers"]
        changed = [key for key in known.keys() | numbers.keys() if not _same(known.get(key), numbers.get(key), rel)]
        if changed:
            first = min(changed)
            pytest.fail(
                f"{name} gives other numbers than its version {versions} did: {len(changed)} of {len(known)}, such as "
                f"{first}: {known.get(first)} became {numbers.get(first)}. If that is meant, raise the `version` of "
                f"what changed, then run `{command}`."
            )
    elif os.environ.get("RECORD_GOLDEN"):
        rounded = {key: float(f"{value:.8g}") for key, value in sorted(numbers.items())}
        records[name] = {"versions": versions, "numbers": rounded}
        file.write_text(json.dumps(dict(sorted(records.items())), indent=1) + "\n")
    elif record is None:
        pytest.fail(f"{name} has no recorded numbers. Run `{command}` and commit {file.name}.")
    else:
        pytest.fail(f"{name} was recorded for versions {record['versions']}, it has {versions}. Run `{command}`.")


def _same(known: float | None, found: float | None, rel: float) -> bool:
    return known is not None and found is not None and found == pytest.approx(known, rel=rel, abs=rel * 1e-6)
