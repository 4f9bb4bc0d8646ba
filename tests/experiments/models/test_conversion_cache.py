"""Bundled models from packages to the cache: verified, made once, complete or not at all. Faults are injected."""

import errno
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from gguf_samples import SampleModel, install, write_sample

from swarm.experiments.artifacts import CacheError
from swarm.experiments.models import conversion, conversion_cache, digest
from swarm.experiments.models.base import WeightsError
from swarm.kernels.errors import SwarmError


def quiet(stage: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> tuple[Path, str]:
    """A GGUF file, and the digest of what it is converted to."""
    path = write_sample(tmp_path_factory.mktemp("gguf"), "llama", "Q8_0")
    folder = tmp_path_factory.mktemp("reference")
    conversion.convert(path, folder, {}, quiet)
    return path, digest.of_files({path.name: digest.sha256(path) for path in folder.iterdir()})


@pytest.fixture
def model(tmp_path, monkeypatch, sample) -> type[SampleModel]:
    """A model whose two packages are installed, with an empty cache."""
    site = tmp_path / "site"
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    gguf_file, installed_digest = sample
    installed = install(site, gguf_file)
    installed.digest = installed_digest
    return installed


def leftovers(cache: Path) -> list[Path]:
    return [path for path in (cache / "models").glob(".*") if not path.name.endswith(".lock")]


def test_packages_are_read_and_never_imported(model, tmp_path) -> None:
    steps = []
    folder = conversion_cache.converted(model, lambda *step: steps.append(step))
    assert folder.is_relative_to(tmp_path / "cache")
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert [stage for stage, _, _ in steps] == sorted((stage for stage, _, _ in steps), key="vac".find)
    assert {stage for stage, done, total in steps if done == total} == {"verify", "assemble", "convert"}
    assert not [name for name in sys.modules if name.startswith("sample_part")]
    assert not leftovers(tmp_path / "cache")


def test_a_converted_model_is_made_once(model) -> None:
    folder = conversion_cache.converted(model, quiet)
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    steps = []
    assert conversion_cache.converted(model, lambda *step: steps.append(step)) == folder
    assert not steps
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(data[:-1])
    elif how == "emptied":
        path.write_bytes(b"")
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["truncated", "emptied", "altered"])
@pytest.mark.parametrize("piece", [0, 1])
def test_damaged_packages_are_refused_before_conversion(model, tmp_path, how, piece) -> None:
    path = tmp_path / "site" / model.parts[piece].path
    damage(path, how)
    with pytest.raises(WeightsError, match=str(path)) as caught:
        conversion_cache.converted(model, quiet)
    assert model.parts[piece].distribution in caught.value.remedy
    assert not conversion_cache.folder_of(model).exists()


def test_missing_packages_say_how_to_get_them(model, tmp_path) -> None:
    (tmp_path / "site" / model.parts[1].path).unlink()
    with pytest.raises(WeightsError, match=model.parts[1].distribution) as caught:
        conversion_cache.converted(model, quiet)
    assert "uv sync --group samples" in caught.value.remedy


@pytest.mark.parametrize("how", ["truncated", "emptied", "altered"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "manifest.json"])
def test_a_damaged_conversion_is_noticed(model, name, how) -> None:
    folder = conversion_cache.converted(model, quiet)
    damage(folder / name, how)
    with pytest.raises(WeightsError, match=str(folder)) as caught:
        conversion_cache.converted(model, quiet)
    assert "Remove" in caught.value.remedy


def test_a_conversion_forged_together_with_its_manifest_is_noticed(model) -> None:
    folder = conversion_cache.converted(model, quiet)
    damage(folder / "model.safetensors", "altered")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["model.safetensors"] = digest.sha256(folder / "model.safetensors")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match="not the one this release makes"):
        conversion_cache.converted(model, quiet)


def test_a_conversion_with_another_result_is_not_kept(model, tmp_path) -> None:
    model.digest = "0" * 64
    with pytest.raises(WeightsError, match="digest"):
        conversion_cache.converted(model, quiet)
    assert not conversion_cache.folder_of(model).exists()
    assert not leftovers(tmp_path / "cache")


@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "no space left"), (errno.EDQUOT, "no space left"), (errno.EIO, "cannot write")]
)
def test_a_failing_disk_leaves_nothing_behind(model, tmp_path, monkeypatch, code, words) -> None:
    def failing(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(CacheError, match=words) as caught:
        conversion_cache.converted(model, quiet)
    assert "SWARM_CACHE" in caught.value.remedy
    assert not leftovers(tmp_path / "cache")
    monkeypatch.undo()
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert conversion_cache.converted(model, quiet).is_dir()


LIMITED = """
import sys, signal, resource
sys.path[:0] = {paths!r}
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
from gguf_samples import SampleModel
from swarm.experiments.models import conversion_cache
from swarm.experiments.models.base import Part
from swarm.kernels.errors import SwarmError
SampleModel.parts, SampleModel.digest = {parts!r}, {digest!r}
try:
    conversion_cache.converted(SampleModel, lambda *step: None)
except SwarmError as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
"""


@pytest.mark.parametrize("limit", [10_000, 400_000])
def test_files_that_cannot_grow_are_reported_in_one_line(model, tmp_path, limit) -> None:
    paths = [str(tmp_path / "site"), str(Path(__file__).parents[2])]
    script = LIMITED.format(paths=paths, limit=limit, parts=model.parts, digest=model.digest)
    command = [sys.executable, "-B", "-c", script]  # bytecode that is cut off at the limit would be kept, and read
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().startswith("CacheError: cannot write to")
    assert "\n" not in done.stderr.strip()
    assert not leftovers(tmp_path / "cache")


def test_a_cache_that_is_no_directory_is_refused(model, tmp_path, monkeypatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SWARM_CACHE", str(tmp_path / "file"))
    with pytest.raises(CacheError, match="file"):
        conversion_cache.converted(model, quiet)


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_cache_without_permission_is_refused(model, tmp_path, monkeypatch) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    monkeypatch.setenv("SWARM_CACHE", str(closed / "cache"))
    with pytest.raises(CacheError, match="no permission"):
        conversion_cache.converted(model, quiet)


def test_what_a_killed_conversion_left_is_cleared_away(model, tmp_path) -> None:
    stale = tmp_path / "cache" / "models" / f".{model.name}-killed"
    stale.mkdir(parents=True)
    (stale / "source.gguf").write_bytes(b"half")
    conversion_cache.converted(model, quiet)
    assert not leftovers(tmp_path / "cache")


def _convert_in_child(site: str, parts: tuple, digest: str, ready: object, results: object) -> None:
    sys.path.insert(0, site)
    SampleModel.parts, SampleModel.digest = parts, digest
    converting = []
    ready.wait()
    try:
        folder = conversion_cache.converted(SampleModel, lambda stage, *_: converting.append(stage))
        results.put((str(folder), bool(converting)))
    except SwarmError as error:
        results.put((str(error), False))


def test_processes_that_ask_together_convert_once(model, tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(3), context.Queue()
    arguments = (str(tmp_path / "site"), model.parts, model.digest, ready, results)
    children = [context.Process(target=_convert_in_child, args=arguments) for _ in range(3)]
    for child in children:
        child.start()
    found = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join(timeout=60)
    assert {folder for folder, _ in found} == {str(conversion_cache.folder_of(model))}
    assert sum(converted for _, converted in found) == 1


def test_memory_stays_far_below_the_model(tmp_path, monkeypatch) -> None:
    """A tensor at a time: the writer never sees more than a piece of the weights."""
    import numpy as np

    piece = np.zeros((1000, 1000), np.float32)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shapes = {f"t{index}": (10_000, 1000) for index in range(8)}
    written = conversion.write_float16(
        tmp_path / "big", shapes, ((name, (piece for _ in range(10))) for name in shapes)
    )
    assert max(written) == 2 * 8 * 10_000_000 == (tmp_path / "big").stat().st_size - _header(tmp_path / "big")
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown * (1 if sys.platform == "darwin" else 1024) < 60 << 20


def _header(path: Path) -> int:
    with path.open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_values_beyond_float16_are_refused(tmp_path) -> None:
    import numpy as np

    for value in (7e4, np.nan, np.inf):
        with pytest.raises(ValueError, match="float16"):
            list(conversion.write_float16(tmp_path / "x", {"w": (1,)}, [("w", [np.full(1, value, np.float32)])]))
