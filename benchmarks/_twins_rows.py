"""Short campaigns over models and their twins with planted causes, recorded for whoever is asked what the causes are.

A row is a twin: what is planted, the trials on unedited weights with what captures show, and what the built-in analysts
say: what they suspect first from the captures alone, and which suspicions the trials on edited weights left standing.
`python -m benchmarks._twins_rows --folder FOLDER` makes them, `benchmarks._llm_twins` asks LLMs about them.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import _planted, _rows, _table, discovery
from benchmarks._rows import Row

from swarm.agents.analysis import causes
from swarm.agents.analysis.removals import EditedWeights
from swarm.agents.generation.nodes.base import nodes
from swarm.agents.history import History
from swarm.agents.settings import AgentSettings
from swarm.experiments.identity import fingerprint
from swarm.experiments.models.base import ModelInfo
from swarm.memory.records import Finding, Proposal, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner

TWINS = 20
BUDGET, CONTEXT = 60, 128
SETTINGS = AgentSettings(
    control_share=0.0,
    shares={name: float(name == "cause") for name, kind in nodes().items() if kind.arm == "agents"},
)
"""After the default configurations nothing but captures and trials that test causes."""
SERIES = frozenset({_table.SERIES, *(suspect.series for suspect in causes.SUSPECTS)})
METRICS = frozenset({"kld", "bits_per_value"})
SIDES = {
    suspect.removal.edit.part: suspect.name for suspect in causes.SUSPECTS if isinstance(suspect.removal, EditedWeights)
}
"""What is suspected, by the weights whose edit takes it out."""


_KNOWN: dict[str, TrialRecord] = {}
"""Trials of models that this process has measured, by fingerprint."""


def seeds(models: Sequence[str]) -> Sequence[tuple[int]]:  # noqa: ARG001
    """Seeds that plant a cause: each kind of twin in turns."""
    kinds = _planted.KINDS
    planting = (seed for seed in count() if kinds[seed % len(kinds)] not in _planted.CONTROLS)
    return [(seed,) for seed in islice(planting, TWINS)]


def bundled(seed: int) -> Row:
    """The row of a twin of a bundled model."""
    return recorded(seed, _planted.bundled(), BUDGET, CONTEXT)


def recorded(seed: int, bases: Mapping[str, Path], budget: int, context: int) -> Row:
    """The row of a twin; `bases` are the folders of models by name."""
    began = time.perf_counter()
    with _planted.planted(seed, bases) as (plant, runner, infos):
        ran = _planted.campaign(runner, infos, budget, context, seed, SETTINGS, 0, _once)
    return {
        "seed": seed,
        "base": plant.base,
        "planted": _planted.label(plant),
        "cause": SIDES[plant.part],
        "context": context,
        "suspected": suspected(ran.history, infos),
        "tested": tested([record.finding for record in ran.findings], ran.records),
        "records": [_short(record) for record in ran.records if record.state == "complete" and not record.spec.edits],
        "seconds": round(time.perf_counter() - began, 1),
    }


def _once(runner: Runner, number: int, proposal: Proposal) -> TrialRecord:
    """A trial; what was measured on a model serves all of its twins."""
    if proposal.spec.model == _planted.TWIN:
        return _planted.measured(runner, number, proposal)
    key = fingerprint(proposal.spec)
    if key not in _KNOWN:
        _KNOWN[key] = _planted.measured(runner, number, proposal)
    known = _KNOWN[key]
    found = {name: getattr(known, name) for name in ("state", "outcome", "metrics", "arrays", "seconds")}
    return _planted.in_memory.proposed(number, proposal).model_copy(update=found)


def suspected(history: History, infos: Sequence[ModelInfo]) -> str:
    """What is suspected first of being why the twin does worse, from captures alone; empty for nothing."""
    found = causes.suspicions(history, {info.name: info for info in infos}, _planted.TWIN)
    return next((one.suspect.name for one in found if one.against), "")


def tested(findings: Sequence[Finding], records: Sequence[TrialRecord]) -> list[str]:
    """What trials on edited weights say is why the twin does worse."""
    standing = [f for f in findings if f.author == "cause" and f.status != "refuted" and f.models[0] == _planted.TWIN]
    between = [f for f in standing if discovery.says_that_models_differ(f)]
    return sorted({SIDES[part] for finding in between for part, _ in _planted.named(finding, records)})


def _short(record: TrialRecord) -> dict[str, Any]:
    """A trial without what nobody reads here."""
    kept = {
        "fingerprint": "",
        "rationale": "",
        "seconds": 0.0,
        "spec": record.spec.model_copy(update={"model_digest": "", "corpus_digest": ""}),
        "metrics": {name: metric for name, metric in record.metrics.items() if name in METRICS},
        "arrays": {name: values for name, values in record.arrays.items() if name in SERIES},
    }
    return record.model_copy(update=kept).model_dump(mode="json", exclude_defaults=True)


STUDY = _rows.Study("twins", ("seed",), seeds, bundled)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
