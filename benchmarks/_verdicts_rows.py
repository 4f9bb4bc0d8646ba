"""The rows of the verdicts: which questions about long texts configurations lose, question by question.

A row is one replicate of the retrieval protocol on a model, with all configurations.
`python -m benchmarks._verdicts_rows --folder FOLDER` makes them.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import _rows
from benchmarks._rows import Row

from swarm.kernels.errors import SwarmError
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner

CONTEXT = 8192
REPLICATES = 100
"""Of four texts with six questions each."""
CONFIGURATIONS = (
    ("KV q8_0", REPLICATES),
    ("KV affine8/g64", REPLICATES),
    ("KV affine6/g64+hadamard -bias", REPLICATES),
    ("K q8_0 V affine4/g64", REPLICATES),
    ("KV affine4/g64+hadamard -bias", REPLICATES),
    ("KV turboquant_mse4+hadamard -bias", 30),
    ("KV affine4/g64", 12),
    ("KV affine3/g64+hadamard -bias", 12),
    ("KV affine2/g64+hadamard -bias", 12),
)
"""With the most replicates that each is asked: what loses much is decided soon. `-bias` is for models that have one."""


def jobs(models: Sequence[str]) -> list[tuple[str, int]]:
    """Every replicate on every model, in turns."""
    return [(model, replicate) for replicate in range(REPLICATES) for model in models]


@cache
def _runner() -> Runner:
    """The runner of this process, with captures of its own: token ids are all that is left of them."""
    from swarm.experiments.measurement.runner import Runner

    return Runner(cache_dir=Path(tempfile.mkdtemp()), threads=1, cache=_rows.kept_free())


def measure(model: str, replicate: int) -> Row:
    """The answers to one replicate's questions. Its 16-bit run is not kept: no later row reads it."""
    from swarm.experiments.environment import device
    from swarm.experiments.models import registry
    from swarm.experiments.spec import TrialSpec

    start = time.perf_counter()
    row: Row = {"model": model, "replicate": replicate, "match": {}, "p": {}, "failed": {}}
    biased = registry.describe(model).key_bias
    for label in (label for label, most in CONFIGURATIONS if replicate < most):
        kv = KVSpec.parse(label if biased else label.removesuffix(" -bias"))
        fields = {"model": model, "context": CONTEXT, "replicate": replicate, "device": device()}
        try:
            found = _runner().run(TrialSpec(kv=kv, protocol="retrieval", **fields))
        except SwarmError as error:
            row["failed"][kv.label] = str(error)
            continue
        row["match"][kv.label] = [int(value) for value in found.arrays["item_match"]]
        row["p"][kv.label] = [round(value, 5) for value in found.arrays["item_p"]]
        row["match_16bit"] = [int(value) for value in found.arrays["item_match_16bit"]]
        row["p_16bit"] = [round(value, 5) for value in found.arrays["item_p_16bit"]]
        row.setdefault("first_seconds", round(time.perf_counter() - start, 2))
    for capture in _runner().captures.root.glob("retrieval-*"):
        shutil.rmtree(capture, ignore_errors=True)
    return row | {"seconds": round(time.perf_counter() - start, 2)}


STUDY = _rows.Study("verdicts", ("model", "replicate"), jobs, measure)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
