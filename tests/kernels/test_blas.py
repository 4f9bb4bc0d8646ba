"""Which BLAS is in force: every case in a process of its own, since the choice is made once per process."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest

from swarm.kernels import blas

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX brings a fast BLAS")
REPORT = "import json, dataclasses; print(json.dumps(dataclasses.asdict(blas.status(measure=True))))"


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)


def status_after(*lines: str) -> dict:
    done = run("\n".join(("from swarm.kernels import blas", *lines, REPORT)))
    return json.loads(done.stdout.splitlines()[-1])


@linux
def test_openblas_loaded_first_is_in_force_and_measured() -> None:
    found = status_after("blas.use_openblas(1)")
    if found["library"] == "reference BLAS":
        pytest.skip("no OpenBLAS on this machine")
    assert found["in_force"]
    assert "OpenBLAS" in found["library"]
    assert found["threads"] == 1
    assert found["remedy"] == ""


@linux
def test_openblas_is_in_force_although_mlx_came_first() -> None:
    found = status_after("import mlx.core", "blas.use_openblas(1)")
    if found["library"] == "reference BLAS":
        pytest.skip("no OpenBLAS on this machine")
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("calls are bound again with glibc only")
    assert found["in_force"]
    assert found["remedy"] == ""


@linux
def test_both_orders_give_the_same_bits() -> None:
    product = (
        "import hashlib, numpy as np, mlx.core as mx",
        "a, b = (mx.array(x.astype(np.float32)) for x in np.random.default_rng(0).normal(size=(2, 200, 200)))",
        "print(hashlib.sha256(np.array(a @ b).tobytes()).hexdigest())",
    )
    orders = (
        ("from swarm.kernels import blas", "blas.use_openblas(1)", *product),
        ("import mlx.core as mx", "from swarm.kernels import blas", "blas.use_openblas(1)", *product),
    )
    found = {run("\n".join(lines)).stdout for lines in orders}
    assert len(found) == 1


@linux
def test_what_cannot_be_put_in_force_is_warned_of_once() -> None:
    script = (
        "from swarm.kernels import blas",
        "import mlx.core",
        "blas.rebind = lambda openblas: False",
        "blas.use_openblas(1)",
        "blas.use_openblas(1)",
        REPORT,
    )
    done = run("\n".join(script))
    found = json.loads(done.stdout)
    if found["library"] == "reference BLAS" or found["gflops"] > blas.FAST_GFLOPS:
        pytest.skip("no OpenBLAS on this machine, or MLX has a fast BLAS of its own")
    assert not found["in_force"]
    assert found["remedy"] in done.stderr
    assert done.stderr.count("RuntimeWarning") == 1


@linux
@pytest.mark.parametrize("first", ["loading.skeleton({'model_type': 'none'})", "loading.load_folder(Path('none'))"])
def test_whatever_part_of_loading_a_model_imports_mlx_puts_it_in_force(first) -> None:
    found = status_after(
        "import contextlib",
        "from pathlib import Path",
        "from swarm.experiments.models import loading",
        "from swarm.kernels.errors import SwarmError",
        "with contextlib.suppress(SwarmError):",
        f"    {first}",
    )
    if found["library"] == "reference BLAS":
        pytest.skip("no OpenBLAS on this machine")
    assert found["in_force"]


@linux
def test_a_damaged_library_costs_speed_and_nothing_else(tmp_path) -> None:
    broken = tmp_path / "libopenblas.so"
    broken.write_bytes(b"\x7fELF" + bytes(60))
    found = status_after(
        f"blas.candidates = lambda: [{str(broken)!r}]",
        "blas.use_openblas(1)",
        "import mlx.core as mx, numpy as np",
        "a = np.arange(12, dtype=np.float32).reshape(3, 4)",
        "assert np.array_equal(np.array(mx.array(a) @ mx.array(a).T), a @ a.T)",
    )
    assert not found["in_force"]
    assert str(broken) in found["remedy"]
    assert "cmeel-openblas" in found["remedy"]


@linux
def test_a_wheel_supplies_the_fortran_runtime() -> None:
    script = "import ctypes; from swarm.kernels import blas; blas.provide_gfortran(); ctypes.CDLL('libgfortran.so.5')"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_threads_are_set_and_the_call_is_repeatable() -> None:
    first, second = blas.use_openblas(2), blas.use_openblas(1)
    assert (first.library, first.path) == (second.library, second.path)
    if second.path:
        assert (first.threads, second.threads) == (2, 1)


@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 5, 3), (128, 576, 192), (1, 640, 2048)])
def test_products_are_right(shape) -> None:
    blas.use_openblas(1)
    import mlx.core as mx

    m, k, n = shape
    rng = np.random.default_rng(sum(shape))
    a, b = rng.normal(size=(m, k)).astype(np.float32), rng.normal(size=(n, k)).astype(np.float32)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    np.testing.assert_allclose(np.array(mx.array(a) @ mx.array(b).T), exact, atol=1e-4 * np.sqrt(k))
