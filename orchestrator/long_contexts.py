"""Whether a campaign's finalists can be tried at a long context: whether models, text and memory suffice for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from swarm.experiments.measurement.decode import WINDOWS
from swarm.experiments.measurement.reference_run import window_count
from swarm.experiments.measurement.retrieval_texts import TEXTS
from swarm.experiments.protocols.base import protocol, searchable
from swarm.experiments.sizing.method import cache_bytes
from swarm.experiments.sizing.plan import RUNTIME_BYTES
from swarm.experiments.sizing.units import size
from swarm.experiments.space.layers import ALL
from swarm.kernels.errors import SwarmError, UsageError
from swarm.kernels.spec import KVSpec
from swarm.orchestrator import machine
from swarm.orchestrator.workload import Workload, corpus_of, device_of

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.experiments.spec import Device
    from swarm.orchestrator.settings import Settings

DEFAULT_TOKENS = 2048
LEAST_BUDGET = 200
"""Trials from which a campaign tries its finalists at a long context unasked: the 16-bit runs take a minute or so."""
ANSWERING = 2 * TEXTS
"""Caches that retrieval holds: those of its texts, and a copy of them that answers."""
BYTES_PER_TOKEN = 6
"""Of text that any usual tokenizer needs at most; asked for, a context is tried with less."""


class TooLargeError(UsageError):
    """A context that does not fit into memory."""


def settle(settings: Settings, workload: Workload, workers: int) -> tuple[Settings, str]:
    """The settings with the long context that a campaign tries its finalists at, and why there is none by default.

    Asked for, a context has to be possible; the default one is left out where it is not, where the campaign is too
    small to afford it, and where a campaign has trials of its own kind: with an agenda, with an engine, in a rehearsal.

    Args:
        settings: what the campaign is told.
        workload: its models and text.
        workers: how many measure at the same time.

    Raises:
        TooLargeError: it does not fit into memory.
        CorpusError: the text is too short for it.
        UsageError: no model can read so much, or a protocol does not measure whole configurations.
    """
    asked = not settings.model_fields_set.isdisjoint({"long", "protocols"})
    of_its_own = (settings.agenda, settings.rehearsal, settings.engine)
    unasked = settings.budget < LEAST_BUDGET or any(kind is not None for kind in of_its_own)
    off = settings.long is None and "long" in settings.model_fields_set
    if not workload.infos or off or (settings.long is None and unasked and not asked):
        return settings, ""
    check_protocols(settings.protocols)
    tokens = settings.long or DEFAULT_TOKENS
    longest = max(info.max_context for info in workload.infos)
    if asked and tokens > longest:
        raise UsageError(
            f"--long={tokens} is longer than any model of the campaign can read.", f"Use {longest} or less."
        )
    try:
        _check(tokens, settings, workload, workers, 1 if asked else BYTES_PER_TOKEN)
    except SwarmError as error:
        if asked:
            raise
        return settings, f"Finalists are not tried at {tokens} tokens: {error.problem}"
    return settings.model_copy(update={"long": tokens}), ""


def check_protocols(names: Sequence[str]) -> None:
    """Refuse protocols that do not measure whole configurations.

    Raises:
        UsageError: with those that do.
    """
    able = [name for name in searchable() if ALL in protocol(name).scopes]
    for name in names:
        if name not in able:
            raise UsageError(
                f"{name!r} is no protocol that finalists can be tried with.", f"Choose from {', '.join(able)}."
            )


def _check(tokens: int, settings: Settings, workload: Workload, workers: int, bytes_per_token: int) -> None:
    context = min(tokens, max(info.max_context for info in workload.infos))
    if context <= settings.context:
        raise UsageError(
            f"{context} tokens are no more than other trials have ({settings.context}).",
            "Give a longer --long that a model can read, or a shorter --context.",
        )
    corpus_of(settings).check_length(bytes_per_token * (context + 1), 2 * window_count(WINDOWS, context))
    if settings.ray_address is not None:  # other nodes' memory is not known here
        return
    have = available(device_of(settings), workers)
    for info in workload.infos:
        context = min(tokens, info.max_context)
        need = memory(info, context, max(ANSWERING, 3 * window_count(WINDOWS, context)))
        if need > have:
            raise TooLargeError(
                f"trials of {info.name} at {context} tokens need {size(need)} of memory per worker, and each of "
                f"{workers} workers has {size(have)}.",
                "Shorten --long, lower --workers, or give --long off.",
            )


def check_questions(model: ModelInfo, context: int, device: Device) -> None:
    """Refuse questions about texts that do not fit into this machine's memory.

    Raises:
        TooLargeError: they do not.
    """
    need, have = memory(model, context, ANSWERING), available(device, 1)
    if need > have:
        raise TooLargeError(
            f"questions to {model.name} about texts of {context} tokens need {size(need)} of memory, and {size(have)} "
            "is there.",
            "Shorten --context.",
        )


def memory(model: ModelInfo, context: int, copies: int) -> int:
    """Bytes that a worker needs at most for a long trial.

    The weights, the runtime, and so many 16-bit caches of a text. The capture of a quality run holds three for each of
    its windows: in the cache, as they are collected, and joined.
    """
    from swarm.experiments.models import registry

    weights = sum(file.stat().st_size for file in registry.ensure(model.name).glob("model*.safetensors"))
    return weights + RUNTIME_BYTES + copies * cache_bytes(model.layers, KVSpec(), context)


def available(device: Device, workers: int) -> int:
    """Bytes of memory that each worker of this machine has: its part of the GPUs, or of the main memory."""
    from swarm.experiments.sizing import machines

    if device == "cpu":
        return int(machine.memory() - machine.RESERVED_BYTES) // max(1, workers)
    return machines.this().usable * max(1, machine.gpus()) // max(1, workers)
