"""How long kernels take for a configuration, as attention trials on a GPU timed them, beside its loss and its bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm.agents.analysis import results
from swarm.agents.analysis.results import ConfigResult
from swarm.experiments.measurement.kernel_time import metric_name
from swarm.kernels.spec import KVSpec, QuantSpec
from swarm.memory.front import pareto_front
from swarm.memory.records import TrialRecord

PREFIX = metric_name(0).removesuffix("0")
Formats = tuple[str, KVSpec, str]
"""A model, what its kernels read, and the device."""


def formats(kv: KVSpec) -> KVSpec:
    """What of a configuration the time of its kernels depends on: not the 16-bit tokens, biases and learned factors."""
    overrides = tuple(
        override.model_copy(update={"key": _fixed(override.key), "value": _fixed(override.value)})
        for override in kv.overrides
    )
    changed = {"key": _fixed(kv.key), "value": _fixed(kv.value), "overrides": overrides}
    return kv.model_copy(update={**changed, "sink_tokens": 0, "residual_window": 0, "key_bias": "keep"})


def _fixed(spec: QuantSpec | None) -> QuantSpec | None:
    return None if spec is None else spec.model_copy(update={"scaling": "fixed"})


def timed(records: Iterable[TrialRecord]) -> dict[Formats, TrialRecord]:
    """The newest trial that timed the kernels of a model's formats, per device."""
    return {
        (record.spec.model, formats(record.spec.kv), record.spec.device): record
        for record in sorted(records, key=lambda record: record.id)
        if record.state == "complete" and not record.outdated and contexts(record)
    }


def contexts(record: TrialRecord) -> tuple[int, ...]:
    """The contexts at which a trial timed the kernels of its own model, ascending; none where it timed nothing."""
    ends = (name.removeprefix(PREFIX) for name in record.metrics if name.startswith(PREFIX))
    return tuple(sorted(int(end) for end in ends if end.isdecimal()))


@dataclass(frozen=True)
class TimedResult:
    """A configuration with what it loses and costs, and the trial that timed kernels of its formats."""

    result: ConfigResult
    timing: TrialRecord

    @property
    def context(self) -> int:
        """The longest context that was timed."""
        return contexts(self.timing)[-1]

    @property
    def microseconds(self) -> float:
        """Of one decode step of one layer at that context, mean over layers."""
        return self.timing.metrics[metric_name(self.context)].value

    @property
    def objectives(self) -> tuple[float, float, float]:
        """Loss, bits per value and microseconds; the smaller, the better."""
        return self.result.level, self.result.bits or 0.0, self.microseconds


def timed_results(records: Sequence[TrialRecord], model: str) -> list[TimedResult]:
    """A model's configurations of the first rung whose kernels were timed, at the context that most were timed at."""
    known = timed(record for record in records if record.spec.model == model)
    found = []
    for result in results.pool(record for record in records if record.spec.model == model).values():
        spec = result.spec
        timing = known.get((model, formats(spec.kv), spec.device))
        if timing is not None and not (spec.rung or spec.edits) and spec.logit_gain == 1 and result.bits is not None:
            found.append(TimedResult(result, timing))
    counted: Mapping[int, int] = {c: sum(one.context == c for one in found) for c in {one.context for one in found}}
    most = max(counted, key=lambda context: (counted[context], context), default=0)
    return [one for one in found if one.context == most]


def front(found: Sequence[TimedResult]) -> list[TimedResult]:
    """Those that no other beats or equals in loss, bits and microseconds at once, by rising microseconds."""
    return [found[i] for i in pareto_front([one.objectives for one in found])]
