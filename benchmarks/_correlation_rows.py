"""The rows of the correlation study: what cheap measures say of many configurations, and what those lose on tasks.

A row is a configuration on a model. `python -m benchmarks._correlation_rows --folder FOLDER` makes them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from benchmarks import _rows
from benchmarks._rows import Row

from swarm.experiments.measurement.decode import WINDOWS, DecodeRun
from swarm.kernels.errors import SpecError, SwarmError, TrialError
from swarm.kernels.spec import KVSpec

if TYPE_CHECKING:
    from swarm.experiments.measurement.runner import Runner
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import TrialSpec

SHORT, MIDDLE, LONG = 512, 2048, 8192
SHORT_TRIALS = 8
"""Trials at 512 tokens that are measured in one pass: their 1,024 scored positions have a 99.9th percentile."""
TASKS = {"retrieval": (4096, 2), "generation": (512, 1)}
"""Context and replicates of each task."""
FIELDS = {
    "retrieval": ("kept", "lost_p", "delta_nll", "answered", "answered_16bit"),
    "generation": ("kld", "late_kld", "unparted", "tokens_until_parting", "answer_tokens_16bit"),
}
FULL = ("kld", "kld_p99", "rms_dp")
"""What a full measurement says, the quantized prefill of 512 tokens included."""
MEMORY = 16 << 30
"""Bytes of weights that a process keeps: all models, as rows take them in turns."""

SYMMETRIC = (
    *(f"affine{bits}/g64{rotation}" for bits in (2, 3, 4, 5, 6, 8) for rotation in ("", "+hadamard")),
    *(f"affine{bits}/g32" for bits in (2, 3, 4)),
    *("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "mxfp8", "nvfp4"),
    *("q4_0+hadamard", "iq4_nl+hadamard", "nvfp4+hadamard"),
    *(f"turboquant_mse{bits}+hadamard" for bits in (2, 3, 4, 5)),
    *(f"polarquant{bits}+hadamard" for bits in (3, 4, 5, 6)),
)
"""Methods of keys and values alike."""
PAIRS = (
    *((f"kivi{bits}/g32/channel", f"kivi{bits}/g32") for bits in (2, 3, 4, 8)),
    *(
        (f"affine{k}/g64", f"affine{v}/g64")
        for k, v in ((8, 4), (8, 3), (8, 2), (4, 8), (3, 8), (2, 8), (4, 2), (2, 4))
    ),
    *((f"qjl{bits}", "affine8/g64") for bits in (1, 3)),
    *((f"turboquant_prod{bits}+hadamard", f"turboquant_mse{bits}+hadamard") for bits in (2, 4)),
    ("kivi4/g32/channel", "affine4/g64"),
    ("turboquant_mse4+hadamard", "affine2/g64"),
    ("affine4/g64+hadamard", "kivi2/g32"),
    ("affine8/g64", "none"),
    ("none", "affine2/g64"),
)
"""Methods of keys and of values."""
EXACT = (
    "K affine3/g64 V affine3/g64 [layers 0,1: K q8_0 V q8_0]",
    "K affine2/g64 V affine2/g64 [layers 0,1: K q8_0 V q8_0]",
    "K affine2/g64 V affine2/g64 sink4 recent256",
    "K affine3/g64 V affine3/g64 sink4 recent256",
    "K affine4/g64 V affine4/g64 sink4 recent256",
    "K affine4/g64 V affine4/g64 sink4",
    "K affine3/g64 V affine3/g64 recent32",
    "K turboquant_mse2+hadamard V turboquant_mse2+hadamard sink4 recent256",
    "K turboquant_mse3+hadamard V turboquant_mse3+hadamard sink4 recent128",
    "K kivi2/g32/channel V kivi2/g32 sink4 recent128",
    "K affine8/g64 V affine2/g64 sink4 recent128",
    "K affine2/g64 V affine8/g64 sink4 recent128",
)
"""With layers or tokens in more bits: of 512 tokens half may be exact, of 8K hardly any."""


def configurations(info: ModelInfo) -> list[KVSpec]:
    """The configurations that fit a model. Where it has a key bias, that is subtracted, except in the ggml blocks."""
    labels = [f"KV {method}" for method in SYMMETRIC] + [f"K {key} V {value}" for key, value in PAIRS] + [*EXACT]
    found = []
    for label in labels:
        kv = KVSpec.parse(label)
        if info.key_bias and kv.key.method != "none" and not kv.key.method.startswith("q"):
            kv = kv.model_copy(update={"key_bias": "subtract"})
        if _fits(kv, info):
            found.append(kv)
    return found


def _fits(kv: KVSpec, info: ModelInfo) -> bool:
    from swarm.experiments.protocols.base import check_model
    from swarm.experiments.spec import TrialSpec

    try:
        check_model(TrialSpec(model=info.name, kv=kv), info)
    except SpecError:
        return False
    return True


@cache
def _runner() -> Runner:
    """The runner of this process."""
    from swarm.experiments.measurement.runner import Runner

    return Runner(threads=1, memory=MEMORY, cache=_rows.kept_free())


class ManyWindows(DecodeRun):
    """The windows of several trials at 512 tokens as one run."""

    settings = DecodeRun.settings | {"windows": SHORT_TRIALS * WINDOWS}


def _trial(model: str, kv: KVSpec, protocol: str = "quality", **fields: int) -> TrialSpec:
    from swarm.experiments.environment import device
    from swarm.experiments.spec import TrialSpec

    return TrialSpec(model=model, kv=kv, protocol=protocol, device=device(), **fields)


def jobs(models: Sequence[str]) -> list[tuple[str, str]]:
    """Model and configuration of every row: models in turns, configurations in a seeded random order."""
    from swarm.experiments.models import registry

    found = [[(model, kv.label) for kv in configurations(registry.describe(model))] for model in models]
    turns = list(zip_longest(*found))
    random.Random(0).shuffle(turns)
    return [job for turn in turns for job in turn if job is not None]


def captures(models: Sequence[str]) -> list[tuple[str, str, dict[str, int]]]:
    """What the rows of a model share, the longest first: model, protocol and the other fields of a trial."""
    kinds = [("quality", {"context": LONG}), ("quality", {"context": MIDDLE})]
    for task, (context, replicates) in TASKS.items():
        kinds += [(task, {"context": context, "replicate": number}) for number in range(replicates)]
    kinds += [("quality", {"context": SHORT, "rung": rung}) for rung in (1, 0)]
    return [(model, *kind) for kind in kinds for model in models]


def prepare(capture: tuple[str, str, dict[str, int]]) -> None:
    """Make one of them, unless another process did. What fails, fails again in every row, which says so."""
    from swarm.experiments.measurement.runner import trial_errors

    model, protocol, fields = capture
    spec = _trial(model, KVSpec(), protocol, **fields)
    with suppress(SwarmError), trial_errors():
        _runner().prepare(spec)
        if fields == {"context": SHORT, "rung": 0}:
            _runner().subject(model).shared(ManyWindows, spec)


def measure(model: str, label: str) -> Row:
    """One row: lists have a value per text, prompt or replicate; `failed` says how a part ended that is missing."""
    from swarm.experiments.measurement.runner import trial_errors

    start = time.perf_counter()
    kv = KVSpec.parse(label)
    row: Row = {"model": model, "kv": label, "failed": {}}
    parts: tuple[tuple[str, Callable[[str, KVSpec], Row]], ...] = (
        ("short", _short), ("full", _full), ("long", _long), ("attention", _attention), ("tasks", _tasks)
    )  # fmt: skip
    for name, part in parts:
        began = time.perf_counter()
        try:
            with trial_errors():
                row |= part(model, kv)
        except TrialError as error:
            row["failed"][name] = error.outcome
        except SwarmError as error:
            row["failed"][name] = str(error)
        row[f"seconds_{name}"] = round(time.perf_counter() - began, 2)
    return row | {"seconds": round(time.perf_counter() - start, 2)}


def _short(model: str, kv: KVSpec) -> Row:
    """A campaign's trial, and the 99.9th percentile over the positions of several."""
    import numpy as np

    from swarm.experiments.measurement.learned_scaling import trial_caches

    subject, spec = _runner().subject(model), _trial(model, kv, context=SHORT)
    scores = subject.shared(ManyWindows, spec).run(trial_caches(spec, subject), spec)
    return {
        "kld_512": float(scores.kld[::SHORT_TRIALS].mean()),
        "kld_512_all": float(scores.kld.mean()),
        "kld_512_p99.9": float(np.percentile(scores.kld, 99.9)),
        "flips_512_all": 1 - float(scores.same_top1.mean()),
    }


def _full(model: str, kv: KVSpec) -> Row:
    found = _runner().run(_trial(model, kv, context=SHORT, rung=1))
    return {f"full_{name}": found[name] for name in FULL}


def _long(model: str, kv: KVSpec) -> Row:
    middle, long = (_runner().run(_trial(model, kv, context=context)) for context in (MIDDLE, LONG))
    return {"kld_2k": middle["kld"], "kld_8k": long["kld"], "bits": long["bits_per_value_limit"]}


def _attention(model: str, kv: KVSpec) -> Row:
    """Errors of attention, without the timing of kernels that trials do on a GPU."""
    from swarm.experiments.measurement.learned_scaling import trial_caches
    from swarm.experiments.protocols.attention import Attention

    subject, spec = _runner().subject(model), _trial(model, kv, "attention", context=SHORT)
    found = Attention().compare(spec, subject.shared(DecodeRun, spec), trial_caches(spec, subject))
    return {"attention": found["output_rel_error"], "attention_kl": found["attention_kl"], "g": found["g"]}


def _tasks(model: str, kv: KVSpec) -> Row:
    row: Row = {}
    for task, (context, replicates) in TASKS.items():
        for replicate in range(replicates):
            found = _runner().run(_trial(model, kv, task, context=context, replicate=replicate))
            means = {metric.name: metric.value for metric in found.metrics}
            for name in FIELDS[task]:
                values = found.arrays.get(f"window_{name}", (means.get(name),))
                row.setdefault(f"{task}_{name}", []).extend(values)
    return row


STUDY = _rows.Study("correlation", ("model", "kv"), jobs, measure, captures, prepare)

if __name__ == "__main__":
    raise SystemExit(STUDY.main())
