"""What the swarm is compared with on planted truths: TPE's best against the default, and pairs of labels."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from benchmarks._planted import Named, measured

from swarm.agents.analysis import results, statistics
from swarm.agents.analysis.claims import NEGLIGIBLE
from swarm.agents.analysis.results import ConfigResult, config_key
from swarm.agents.history import History
from swarm.agents.samplers.optuna_bridge.study import ModelStudy
from swarm.agents.settings import AgentSettings
from swarm.experiments.space.search_space import Space, SpaceSettings
from swarm.experiments.spec import TrialSpec
from swarm.kernels.spec import KVSpec
from swarm.memory.records import Proposal, TrialRecord

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models.base import ModelInfo

ATTEMPTS = 8


def tpe(runner: Runner, infos: Sequence[ModelInfo], budget: int, context: int, seed: int) -> list[TrialRecord]:
    """Optuna's multi-objective TPE on each model in turns, after the default configurations."""
    space = Space(infos, SpaceSettings(context=context), corpus_digest=runner.corpus.digest)
    studies = [ModelStudy(space, info, AgentSettings(), seed) for info in infos]
    defaults = [space.defaults(info) for info in infos]
    records: list[TrialRecord] = []
    for number in range(budget):
        index, at = divmod(number, len(infos))
        seen = [record for record in records if record.spec.model == infos[at].name]
        spec = defaults[at][index] if index < len(defaults[at]) else _suggested(studies[at], seen)
        records.append(measured(runner, number, Proposal(spec=spec, proposer="tpe", arm="control")))
    return records


def _suggested(study: ModelStudy, seen: Sequence[TrialRecord]) -> TrialSpec:
    """What TPE says, the first answer that is new."""
    known = {record.spec for record in seen}
    study.feed(seen)
    asked = [study.ask(len(seen), attempt) for attempt in range(ATTEMPTS)]
    return next((spec for spec in asked if spec not in known), asked[-1])


def best_against_default(records: Sequence[TrialRecord], twin: str) -> list[set[Named]]:
    """What the best configuration of each model at the cost of the default 4-bit cache says.

    They differ when the intervals of best over default do not overlap. Named are the sides in which the twin's best
    configuration differs from the default one, in the layers that it treats apart.
    """
    gains = {}
    for model in dict.fromkeys(record.spec.model for record in records):
        found = [r for (name, _), r in results.pool(records).items() if name == model and r.is_quantized]
        plain = next((r for r in found if r.spec.kv == KVSpec.parse("KV affine4/g64")), None)
        if plain is None or plain.bits is None:
            return []
        best = min((r for r in found if (r.bits or 16.0) <= (plain.bits or 0.0)), key=lambda r: r.level)
        gain = results.compare(best, plain)
        if gain is None:
            return []
        gains[model] = gain.interval(), best.spec.kv, plain.spec.kv
    (own, chosen, default), *others = [gains[twin], *(gains[model] for model in gains if model != twin)]
    overlap = any(own[0] <= other[0][1] and other[0][0] <= own[1] for other in others)
    return [] if overlap else [_differences(chosen, default)]


def pairs_of_labels(records: Sequence[TrialRecord], twin: str) -> list[set[Named]]:
    """What the analysts of the first release say, rebuilt: pairs of configurations whose ratio differs between models.

    Whatever they cost; a Welch test of every shared pair, Holm over all of them, and the same sign at 5% on the
    replications. Named are the sides in which the two differ, when the twin is the one that suffers more.
    """
    found = {place: r for place, r in History(tuple(records)).results().items() if r.is_quantized and not r.spec.rung}
    other = next(record.spec.model for record in records if record.spec.model != twin)
    shared = sorted(key for model, key in found if model == twin and (other, key) in found)
    tested = []
    for pair in combinations(shared, 2):
        difference = _difference(found, pair, twin, other)
        if difference is not None:
            tested.append((pair, difference))
    said = []
    for pair, estimate in statistics.significant(tested, NEGLIGIBLE):
        again = _difference(found, pair, twin, other, replicated=True)
        if again is None or again.p >= statistics.ALPHA or again.mean * estimate.mean <= 0:
            continue
        a, b = (found[twin, key].spec.kv for key in pair)
        said.append(_differences(a, b))
    return said


def _difference(
    found: results.Results, pair: tuple[str, str], first: str, second: str, *, replicated: bool = False
) -> statistics.Estimate | None:
    sides = []
    for model in (first, second):
        a, b = (found[model, key] for key in pair)
        sides.append(results.compare(a, b, (a.replicates & b.replicates) - {0} if replicated else None))
    return None if sides[0] is None or sides[1] is None else sides[0] - sides[1]


def _differences(a: KVSpec, b: KVSpec) -> set[Named]:
    apart = {layer for kv in (a, b) for override in kv.overrides for layer in override.layers}
    layers = tuple(sorted(apart)) or None
    return {(f"{side}s", layers) for side in ("key", "value") if getattr(a, side) != getattr(b, side) or apart}


def harm(records: Sequence[TrialRecord], twin: str) -> float | None:
    """Logarithm of the twin's KLD over the model's, of the default 4-bit cache."""
    found = {
        record.spec.model: ConfigResult("kld", (record,)).level
        for record in reversed(records)
        if record.state == "complete" and config_key(record.spec) == config_key(_default(record.spec))
    }
    own = found.pop(twin, None)
    return None if own is None or not found else own - next(iter(found.values()))


def _default(spec: TrialSpec) -> TrialSpec:
    return spec.model_copy(update={"kv": KVSpec.parse("KV affine4/g64"), "protocol": "quality", "edits": (), "rung": 0})
