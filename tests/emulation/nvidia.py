"""The CUDA text that MLX makes of a kernel, and NVIDIA's compilers for it, without a GPU."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import launch

if TYPE_CHECKING:
    from swarm.kernels.fused.launch import Kernel

ARCHITECTURE = "sm_90"
_TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16", "int32": "int"}
_TYPES |= {"uint32": "unsigned", "uint16": "unsigned short", "uint8": "unsigned char"}  # as cstdint has it on Linux
# Stands for MLX's device header, which its packages do not ship as a file: what a custom kernel's text can see of it.
DEVICE_HEADER = """
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#define MAX_NDIM 10
#define WARP_SIZE 32
namespace cooperative_groups {}
namespace mlx::core::cu {
template <typename T>
struct Numbers {
  T values[MAX_NDIM];
  __device__ const T& operator[](size_t i) const { return values[i]; }
};
using Shape = Numbers<int>;
using Strides = Numbers<long>;
}
"""


def unit(kernel: Kernel, header: str = DEVICE_HEADER) -> str:
    """The translation unit of `mx.fast.cuda_kernel` for a kernel: header, parameters, template arguments, statements.

    `header` is what MLX puts before all of them.
    """
    settings = launch.settings(kernel, "cuda")
    source = settings["source"]
    parameters = []
    for name, dtype in kernel.inputs:
        parameters.append(f"const {_type(dtype)}* {name}")
        wanted = ((kind, f"{name}_{kind.lower()}") for kind in ("Shape", "Strides"))
        parameters += [f"const __grid_constant__ {kind} {more}" for kind, more in wanted if more in source]
    parameters += [
        f"{_type(dtype)}* {name}" for name, (_, _, dtype) in zip(settings["output_names"], kernel.outputs, strict=True)
    ]
    constants = [
        f"constexpr int {name} = {value};" if isinstance(value, int) else f"using {name} = {_type(value)};"
        for name, value in kernel.template
    ]
    opening = f"__global__ void {settings['name']}({', '.join(parameters)}) {{"
    inside = ["namespace mlx::core::cu {", "namespace cg = cooperative_groups;", opening, *constants, source, "}", "}"]
    return "\n".join([header, settings["header"], *inside])


@dataclass(frozen=True)
class Compiled:
    """A kernel's PTX; registers of a lane, bytes of threadgroup memory, and bytes of registers kept in memory."""

    ptx: str = field(repr=False)
    registers: int
    shared: int
    spilled: int


def compiled(text: str, architecture: str = ARCHITECTURE) -> Compiled:
    """Compile a translation unit of one kernel for an architecture, by NVRTC as MLX does, or by nvcc.

    Raises:
        BackendError: neither compiler is here, or the text does not compile.
    """
    library = _nvrtc()
    ptx, log = _by_nvcc(text, architecture) if library is None else _by_nvrtc(library, text, architecture)
    return Compiled(ptx, *(_number(log, of) for of in ("registers", "bytes smem", "bytes spill stores")))


def missing() -> str | None:
    """Why nothing can be compiled here; None if it can."""
    if not (_home() / "include/cuda_fp16.h").exists():
        return f"no CUDA headers under {_home()} (set CUDA_HOME)"
    return "neither NVRTC nor nvcc" if _nvrtc() is None and _nvcc() is None else None


def _type(dtype: Any) -> str:
    return _TYPES[str(dtype).rsplit(".", 1)[-1]]


def _number(log: str, of: str) -> int:
    found = re.findall(rf"(\d+) {of}", log)
    return int(found[-1]) if found else 0


def _home() -> Path:
    return Path(os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda")


def _nvcc() -> str | None:
    return shutil.which(str(_home() / "bin/nvcc")) or shutil.which("nvcc")


@cache
def _nvrtc() -> ctypes.CDLL | None:
    for folder in ("", f"{_home()}/lib64/"):
        for version in (".13", ".12", ""):
            with suppress(OSError):
                return ctypes.CDLL(f"{folder}libnvrtc.so{version}")
    return None


def _by_nvrtc(library: ctypes.CDLL, text: str, architecture: str) -> tuple[str, str]:
    include = _home() / "include"
    options = [f"--gpu-architecture={architecture}", f"--include-path={include}/cccl", f"--include-path={include}"]
    options += ["--ptxas-options=-v", "--disable-warnings"]
    program = ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    try:
        given = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = library.nvrtcCompileProgram(program, len(options), given)
        log = _text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog, program)
        if failed:
            raise _refusal(log)
        return _text(library.nvrtcGetPTXSize, library.nvrtcGetPTX, program), log
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def _text(size_of: Any, read: Any, program: ctypes.c_void_p) -> str:
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value + 1)
    read(program, text)
    return text.value.decode()


def _by_nvcc(text: str, architecture: str) -> tuple[str, str]:
    path = _nvcc()
    if path is None:
        raise BackendError("There is no compiler for CUDA here.", "Install the CUDA toolkit, or set CUDA_HOME.")
    with tempfile.TemporaryDirectory() as folder:
        source, ptx = Path(folder) / "kernel.cu", Path(folder) / "kernel.ptx"
        source.write_text(text)
        flags = ("-std=c++17", f"-arch={architecture}", "-cubin", "-w", "-Xptxas", "-v", "--keep", "--keep-dir", folder)
        command = [path, *flags, "-o", f"{folder}/kernel.cubin", str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise _refusal(done.stderr)
        return ptx.read_text(), done.stderr


def _refusal(log: str) -> BackendError:
    return BackendError(f"The kernel text does not compile for CUDA:\n{log[:4000]}", "Mend the kernel text.")
