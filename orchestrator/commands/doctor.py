"""`swarm doctor`: whether this machine has what a campaign needs.

Each check says what it found and what to do about it.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from swarm.kernels.errors import SwarmError
from swarm.orchestrator.console import Column, listing
from swarm.orchestrator.options import Json, StoreUrl

if TYPE_CHECKING:
    from swarm.experiments.models.base import ModelInfo
    from swarm.orchestrator.settings import Settings

PANEL = "Methods and models"
Status = Literal["ok", "slow", "off", "missing", "failed"]
MIN_FREE_BYTES = 2 * 2**30
LLM_TIMEOUT = 10.0
"""Seconds in which an LLM's server has to say which models it has."""


@dataclass(frozen=True)
class Check:
    """What was found: `off` is a choice, `slow` works, `missing` and `failed` need the remedy."""

    name: str
    status: Status
    detail: str
    remedy: str = ""


def command(store: StoreUrl = None, json: Json = False) -> None:
    """Check device, BLAS, Ray, store, LLM endpoint and models; say what to do where something is missing.

    Exits with 1 when something needs attention. Example: `swarm doctor`
    """
    from swarm.orchestrator.settings import load

    found = list(checks(load(store=store)))
    columns = [Column("name", "check"), Column("status"), Column("detail", "found"), Column("remedy", "what to do")]
    listing([asdict(check) for check in found], columns, as_json=json)
    if any(check.status in ("missing", "failed") for check in found):
        raise typer.Exit(1)


def output() -> object:
    """What `--json` prints."""
    return list[Check]


def checks(settings: Settings) -> Iterator[Check]:
    """Every check in turn; none of them raises."""
    for name, check in (
        ("BLAS", _blas),  # before anything that imports mlx.core
        ("device", _device),
        ("workers", _workers),
        ("Ray", _ray),
        ("cache", _cache),
        ("downloads", _downloads),
    ):
        yield _guarded(name, check)
    yield _guarded("store", lambda: _store(settings))
    yield llm_check(settings)
    yield from model_checks()


def llm_check(settings: Settings) -> Check:
    """Whether the LLM that the settings name can be asked."""
    return _guarded("LLM", lambda: _llm(settings))


def _guarded(name: str, check: Callable[[], Check]) -> Check:
    try:
        return check()
    except SwarmError as error:
        return Check(name, "failed", error.problem, error.remedy)
    except Exception as error:
        return Check(name, "failed", f"{type(error).__name__}: {error}", "Reinstall kv-swarm and its dependencies.")


def _blas() -> Check:
    from swarm.kernels import blas

    blas.use_openblas(1)
    status = blas.status(measure=True)
    speed = "" if status.gflops is None else f", {status.gflops:.0f} GFLOP/s on one thread"
    return Check("BLAS", "ok" if status.in_force else "slow", f"{status.library}{speed}", status.remedy)


def _device() -> Check:
    from swarm.experiments.environment import environment

    found = environment()
    return Check("device", "ok", f"{found.device}; {found.platform}, Python {found.python}")


def _workers() -> Check:
    from swarm.experiments.environment import device
    from swarm.orchestrator import machine

    workers = machine.default_workers(device(), machine.WORKER_BYTES + machine.CUDA_BYTES)
    return Check("workers", "ok", f"{workers} by default, {machine.describe()}")


def _ray() -> Check:
    import ray  # noqa: F401

    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    detail = f"Ray {importlib.metadata.version('ray')}, {free / 2**30:.1f} GiB free in {place}"
    if not os.access(place, os.W_OK):
        return Check("Ray", "failed", f"{place} cannot be written", "Set TMPDIR to a folder that you can write.")
    if free < MIN_FREE_BYTES:
        return Check("Ray", "failed", detail, f"Free some space in {place}.")
    return Check("Ray", "ok", detail)


def _cache() -> Check:
    from swarm.experiments import artifacts

    folder = artifacts.writable(artifacts.cache_dir())
    free = shutil.disk_usage(folder).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < MIN_FREE_BYTES:
        return Check("cache", "failed", detail, "Free some space, or point SWARM_CACHE at another disk.")
    return Check("cache", "ok", detail)


def _downloads() -> Check:
    """Which models of other programs `swarm plan` can read by the names that these give them."""
    from swarm.experiments.sizing import downloaded

    names = list(downloaded.ollama_models())
    if not names:
        return Check("downloads", "off", "no models of Ollama here; plans take files and names all the same")
    shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
    return Check("downloads", "ok", f"{len(names)} models of Ollama for `swarm plan --model`: {shown}")


def _store(settings: Settings) -> Check:
    from swarm.memory.store import Store

    if "://" not in settings.store and not Path(settings.store).exists():
        return Check("store", "off", f"{settings.store} does not exist yet; `swarm launch` makes it")
    with Store.read(settings.store) as store:
        problems = store.check()
        if problems:
            return Check("store", "failed", f"{store.place}: {'; '.join(problems[:3])}", "Restore a backup.")
        campaigns = store.campaigns.list()
        trials = sum(campaign.next_number for campaign in campaigns)
        folder = Path(settings.store).resolve().parent
        frozen = (
            ""
            if "://" in settings.store or os.access(folder, os.W_OK)
            else ", in a folder that cannot be written: it can only be read"
        )
        return Check("store", "ok", f"{store.place}: {len(campaigns)} campaigns, {trials} trials{frozen}")


def _llm(settings: Settings) -> Check:
    from swarm.agents.llm import endpoint, factory
    from swarm.agents.llm.client import Client

    asked = settings.for_llm()
    if asked.llm == "none":
        hint = endpoint.hint(asked)
        return Check("LLM", "off", "none: the agents use the built-in statistics" + (f". {hint}" if hint else ""))
    factory.check(asked, capped=settings.max_usd is not None)
    local = endpoint.local_model(asked)
    if local is not None:
        return Check("LLM", "ok", f"{local} on this machine")
    client = Client(endpoint.endpoint(asked), LLM_TIMEOUT)
    try:
        names, model = client.models(), client.model
    finally:
        client.close()
    if names and model not in names:
        known = ", ".join(names[:5])
        return Check("LLM", "missing", f"{asked.llm} has no model {model!r}", f"Give --llm-model: {known}.")
    return Check("LLM", "ok", f"{model} at {asked.llm}")


def model_checks() -> Iterator[Check]:
    """Whether the bundled models are here and whole; reads every converted weight."""
    from swarm.experiments.models import registry

    for info in registry.catalogue():
        yield _guarded(f"model {info.name}", partial(_model, info))


def _model(info: ModelInfo) -> Check:
    from swarm.experiments.models import registry

    name = f"model {info.name}"
    detail = f"{info.family}, {info.n_layers} layers, {info.n_heads}/{info.n_kv_heads} heads of {info.head_dim}"
    if not info.available:
        group = registry.bundled()[info.name].group
        remedy = f"Install the dependency group `{group}` (uv run --group ...)."
        return Check(name, "off", f"{detail}; not installed", remedy)
    registry.check(info.name)
    return Check(name, "ok", detail)
