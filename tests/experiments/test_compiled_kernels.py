"""Compiled kernels pass between processes complete or not at all; folders of processes that are gone go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from swarm.experiments.compiled_kernels import CompiledKernels


@pytest.fixture(autouse=True)
def variable(monkeypatch):
    monkeypatch.setenv("MLX_PTX_CACHE_DIR", "")


def compile_module(folder, name, code=b"code"):
    """Write what MLX writes, in its order."""
    code_file = folder / f"{name}.ptx"
    code_file.parent.mkdir(parents=True, exist_ok=True)
    code_file.write_bytes(code)
    code_file.with_suffix(".txt").write_text("kernel\tmangled\n")
    code_file.with_suffix(".cu").write_text("source")


def own():
    return Path(os.environ["MLX_PTX_CACHE_DIR"])


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.name != "held"}


IN_ANOTHER_PROCESS = """
import os, sys
from pathlib import Path
from swarm.experiments.compiled_kernels import CompiledKernels
kernels = CompiledKernels(Path(sys.argv[1]))
folder = Path(os.environ["MLX_PTX_CACHE_DIR"])
known = sorted(path.name for path in folder.rglob("*.ptx"))
for suffix in (".ptx", ".txt"):
    (folder / f"theirs{suffix}").write_text("theirs")
kernels.exchange()
print(folder, *known)
os._exit(1)  # as a worker ends that is killed
"""


def another(root):
    return subprocess.run(
        [sys.executable, "-c", IN_ANOTHER_PROCESS, str(root)], capture_output=True, text=True, check=False, timeout=60
    )


def test_what_one_process_compiled_the_others_have(tmp_path):
    kernels = CompiledKernels(tmp_path)
    mine = own()
    assert names(mine) == set()
    compile_module(mine, "a")
    compile_module(mine, "long/name/b")
    kernels.exchange()
    done = another(tmp_path)
    folder, *known = done.stdout.split()
    assert (known, folder != str(mine)) == (["a.ptx", "b.ptx"], True), done.stderr
    assert "theirs.ptx" not in names(mine)
    kernels.exchange()
    assert {"theirs.ptx", "theirs.txt"} <= names(mine)
    again = another(tmp_path)
    assert "theirs.ptx" in again.stdout
    assert not Path(folder).exists()
    assert mine.exists()


def test_a_module_that_is_not_complete_is_not_handed_on(tmp_path):
    kernels = CompiledKernels(tmp_path)
    (own() / "half.ptx").write_bytes(b"half")
    kernels.exchange()
    common = next(path for path in tmp_path.iterdir() if "mlx" in path.name)
    assert names(common) == set()


def test_a_known_module_is_not_written_again(tmp_path):
    kernels = CompiledKernels(tmp_path)
    compile_module(own(), "a", b"first")
    kernels.exchange()
    compile_module(own(), "a", b"second")
    kernels.exchange()
    common = next(path for path in tmp_path.iterdir() if "mlx" in path.name)
    assert (common / "a.ptx").read_bytes() == b"first"
