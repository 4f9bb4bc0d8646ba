"""Fixtures that several packages share: model facts, tiny models of several families, one runner per session."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

# Tests start hundreds of processes: without bytecode on disk each would compile all that it imports, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Stores in memory, where there is room and programs may run: a store waits for the disk with every transaction.
if (
    (memory := Path("/dev/shm")).is_dir()
    and shutil.disk_usage(memory).free > 4 << 30
    and not os.statvfs(memory).f_flag & os.ST_NOEXEC
):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(memory))
# Bit-identical results need one thread, and the number is read when numpy is first imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Read by MLX with its first product: on NVIDIA, float32 would mean TF32.
os.environ.setdefault("MLX_ENABLE_TF32", "0")
# Read when Ray is imported, by whichever test module is first: under `uv run` its workers would build their own env.
os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"

import pytest
from engine_server import MlxServer
from postgres_server import NoServerError, PostgresServer
from tiny_models import FAMILIES, write_tiny_model

from swarm.experiments import identity
from swarm.experiments.measurement.runner import Runner
from swarm.experiments.models.base import ModelInfo
from swarm.experiments.protocols.base import Protocol
from swarm.kernels import blas
from swarm.kernels.quantizers.base import Quantizer
from swarm.memory.store import Store

# Before any test module imports MLX: with the reference BLAS the real models take minutes.
blas.use_openblas(1)


TESTS = Path(__file__).parent


def model_info(name: str = "tiny", **fields: object) -> ModelInfo:
    """Facts of a model that need no model."""
    n_layers = int(fields.get("n_layers", 6))  # type: ignore[call-overload]
    facts = {
        "name": name,
        "family": "llama",
        "digest": "0" * 64,
        "n_layers": n_layers,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 64,
        "scales": (0.125,) * n_layers,
        "scale_kind": "fixed",
        "windows": (None,) * n_layers,
        "key_bias": False,
        "vocab_size": 256,
        "max_context": 2048,
        "available": True,
    }
    return ModelInfo.model_validate({**facts, **fields})


MIXED = [
    {"state_bytes": 4096},
    {"kv_heads": 4, "key_dim": 256, "value_dim": 256, "window": 64},
    {"kv_heads": 2, "key_dim": 512, "value_dim": 512},
    {"kv_heads": 4, "key_dim": 256, "value_dim": 256, "window": 64},
    {"state_bytes": 4096},
    {"kv_heads": 2, "key_dim": 512, "value_dim": 512},
    {"shared_from": 5},
]


@pytest.fixture
def infos() -> dict[str, ModelInfo]:
    """Facts of models that differ in what matters to the search: head size, key bias, windows, depth."""
    found = [
        model_info("plain"),
        model_info("wide", head_dim=256, n_layers=18, windows=(512, None) * 9, scale_kind="learned"),
        model_info("biased", key_bias=True, n_layers=24),
        model_info("odd", head_dim=80, n_layers=2),
        model_info("mixed", layers=MIXED, scales=(0.125,) * 6 + (None,)),
        model_info(
            "latent", layers=[{"kv_heads": 1, "key_dim": 64, "value_dim": 32, "latent": True}] * 5, scales=(1.0,) * 5
        ),
        model_info("shallow", n_layers=1, head_dim=128, max_context=128),
    ]
    return {info.name: info for info in found}


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store to be copied, which takes a tenth of the time of making one."""
    path = tmp_path_factory.mktemp("template") / "swarm.db"
    Store.open(path, create=True).close()
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; on a machine without one its tests are skipped, in CI they must run."""
    try:
        server = PostgresServer()
    except NoServerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield server
    server.stop()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """URL of an empty PostgreSQL database that is dropped afterwards."""
    url = postgres_server.create_database()
    yield url
    postgres_server.drop_database(url)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Names (paths) of tiny models by family."""
    root = tmp_path_factory.mktemp("models")
    return {family: str(write_tiny_model(root / family, family)) for family in FAMILIES}


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """One runner for all tests, with captures of its own; converted models come from the user cache."""
    return Runner(cache_dir=tmp_path_factory.mktemp("cache"))


@pytest.fixture
def raise_version(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[type[Protocol] | type[Quantizer]], None]]:
    """Gives a protocol or a method the next version, as whoever changes what it yields does."""

    def next_version(kind: type[Protocol] | type[Quantizer]) -> None:
        monkeypatch.setattr(kind, "version", kind.version + 1)
        identity.version.cache_clear()

    yield next_version
    monkeypatch.undo()
    identity.version.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def _keep_collections_short() -> None:
    """Have what lives when a file begins left out of garbage collections, which whoever frees memory asks for.

    Of all tests and modules together one takes half a second, and there are hundreds.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give out the longest files first, so that the test processes end together."""
    items.sort(key=lambda item: not {"orchestrator", "benchmarks"} & {*item.path.parts} and item.path.parent != TESTS)


@pytest.fixture(scope="session")
def mlx_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlxServer]:
    """A real `mlx_lm.server` of a tiny model."""
    folder = tmp_path_factory.mktemp("engine")
    running = MlxServer(write_tiny_model(folder / "model", "llama", seed=3), folder / "log")
    yield running
    running.stop()
