"""Runs kernels on the CPU with lanes, barriers and matrix tiles emulated: the text that a Mac compiles, under test.

Made for checking, not for speed. g++ compiles the text strictly (C++14, no double arithmetic), and every run checks
bounds, alignment, races in threadgroup memory, divergence at barriers, and that outputs are written once.
"""

from __future__ import annotations

import ctypes
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from emulation import compiling

from swarm.kernels.errors import BackendError
from swarm.kernels.fused import sources
from swarm.kernels.fused.launch import MIN_INPUT_ELEMENTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from emulation.compiling import Layout

    from swarm.kernels.fused.launch import Array, Kernel

_NAMES = {"float32": "float", "float16": "kv::half_t", "bfloat16": "kv::bfloat_t", "uint32": "kv::uint"}
_NAMES |= {"int32": "int", "uint8": "kv::uchar", "uint16": "kv::ushort"}

MAX_BUFFERS = 31  # of a Metal kernel; shapes and strides that its text names take one each
NUMBERS = ("counts",)  # whose strides alone are read


class _Buffer(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_int64),
        ("shape", ctypes.POINTER(ctypes.c_int)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("written", ctypes.c_void_p),
    )


@dataclass(frozen=True)
class Signature:
    """What of a call is compiled in: entry, template arguments, and types of inputs and outputs."""

    entry: str
    template: tuple[tuple[str, str], ...]
    inputs: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, kernel: Kernel) -> Signature:
        """The signature of a kernel."""
        return cls(
            kernel.entry,
            tuple(
                (name, str(value) if isinstance(value, int) else _type_name(value)) for name, value in kernel.template
            ),
            tuple((name, _type_name(dtype)) for name, dtype in kernel.inputs),
            tuple((name, _type_name(dtype)) for name, _, dtype in kernel.outputs),
        )

    @property
    def symbol(self) -> str:
        """Name of the entry point."""
        return f"kernel_{hashlib.sha256(repr(self).encode()).hexdigest()[:16]}"

    def text(self) -> str:
        """The generated entry point around the kernel's statements."""
        # A template, as MLX makes of a kernel on Metal: what needs `typename` or `template` there needs it here.
        kinds = ", ".join(f"{'int' if _is_number(value) else 'typename'} {name}" for name, value in self.template)
        values = ", ".join(value for _, value in self.template)
        head, call = (f"template <{kinds}>", f"run<{values}>") if self.template else ("static", "run")
        lines = [f"namespace {self.symbol}_scope {{", head, "void run(void* argument) {"]
        lines.append("const kv::host::Arguments& arguments = *static_cast<kv::host::Arguments*>(argument);")
        for i, (name, dtype) in enumerate(self.inputs):
            lines.append(f"const auto {name} = arguments.pointer<const {dtype}>({i});")
            lines.append(f"const int* {name}_shape = arguments.buffers[{i}].shape;")
            lines.append(f"const int64_t* {name}_strides = arguments.buffers[{i}].strides;")
        for i, (name, dtype) in enumerate(self.outputs, len(self.inputs)):
            lines.append(f"const auto {name} = arguments.pointer<{dtype}>({i});")
        lines += [sources.statements(self.entry), "}", "}"]
        lines.append(
            f'extern "C" int {self.symbol}(const kv::host::Buffer* buffers, int count, const unsigned* groups, '
            "int threads, unsigned seed, char* message, size_t room) {\n"
            f"return kv::host::launch({self.symbol}_scope::{call}, buffers, count, groups, threads, seed, "
            "message, room);\n}"
        )
        return "\n".join(lines)


@cache
def _load(text: str, layout: Layout, level: int) -> ctypes.CDLL:
    return ctypes.CDLL(str(compiling.shared_object(text, layout, level)))


class Host:
    """Compiles and runs kernel calls on the CPU in the lane order of one GPU family."""

    def __init__(self, layout: Layout = "cuda", seed: int = 0, level: int = 0) -> None:
        self.layout = layout
        self.seed = seed  # of the order in which lanes run
        self.level = level  # of optimisation: 0 compiles twice as fast, 1 runs four times as fast
        self._libraries: dict[Signature, ctypes.CDLL] = {}

    def prepare(self, signatures: Iterable[Signature]) -> None:
        """Compile several kernels of one entry in one go."""
        missing = [signature for signature in dict.fromkeys(signatures) if signature not in self._libraries]
        if missing:
            library = _load(translation_unit(missing), self.layout, self.level)
            self._libraries.update(dict.fromkeys(missing, library))

    def run(self, kernel: Kernel, arrays: Sequence[Array]) -> list[Array]:
        """Run one launch; outputs that are not written stay NaN.

        Raises:
            BackendError: what the emulation found wrong, or no compiler.
        """
        import mlx.core as mx

        signature = Signature.of(kernel)
        if (count := _buffers(kernel)) > MAX_BUFFERS:
            raise BackendError(f"Kernel {kernel.entry} takes {count} buffers.", f"Metal has {MAX_BUFFERS}.")
        self.prepare([signature])
        inputs = [(name, _to_numpy(array)) for (name, _), array in zip(kernel.inputs, arrays, strict=True)]
        for (name, dtype), array in zip(kernel.inputs, arrays, strict=True):
            _check(kernel.entry, name, dtype, array)
        outputs = [(name, np.full(_bytes(shape, dtype), 0xFF, np.uint8)) for name, shape, dtype in kernel.outputs]
        marks = [np.zeros(data.size, np.uint8) for _, data in outputs]
        buffers = [_buffer(name, data, None) for name, data in inputs]
        buffers += [_buffer(name, data, mark) for (name, data), mark in zip(outputs, marks, strict=True)]
        message = ctypes.create_string_buffer(400)
        failed = self._libraries[signature][signature.symbol](
            (_Buffer * len(buffers))(*(buffer for buffer, _ in buffers)),
            len(buffers),
            (ctypes.c_uint * 3)(*kernel.groups),
            kernel.threads,
            self.seed,
            message,
            len(message),
        )
        if failed:
            raise BackendError(f"Kernel {kernel.entry} on the host: {message.value.decode()}.", "Mend the kernel text.")
        return [
            mx.array(data).view(dtype).reshape(shape)
            for (_, data), (_, shape, dtype) in zip(outputs, kernel.outputs, strict=True)
        ]


def translation_unit(signatures: Sequence[Signature]) -> str:
    """One C++ source with the entry points of all signatures, to be compiled behind the prelude of a layout."""
    entries = dict.fromkeys(signature.entry for signature in signatures)
    # After the system headers: from here on nobody may compute in double, jump or allocate, or use Metal's own words.
    parts = ["#pragma GCC poison double goto malloc new delete virtual throw"]
    parts.append("#pragma GCC poison thread device constant threadgroup kernel vertex fragment ray_data half")
    parts += [sources.read(f"{name}.h") for name in dict.fromkeys(n for e in entries for n in sources.BODIES[e])]
    return "\n".join([*parts, *(signature.text() for signature in signatures)])


def _buffers(kernel: Kernel) -> int:
    """The buffers that MLX binds for a kernel on Metal: inputs, the shapes and strides that are read, and outputs."""
    text = sources.statements(kernel.entry)
    read = [f"{name}_{of}" for name, _ in kernel.inputs for of in ("shape", "strides") if f"{name}_{of}" in text]
    return len(kernel.inputs) + len(read) + len(kernel.outputs)


def _check(entry: str, name: str, dtype: Any, array: Array) -> None:
    """Refuse what a GPU would take otherwise: another type, or memory that Metal would not keep as device memory."""
    if array.dtype != dtype:
        raise BackendError(f"Input {name} of kernel {entry} is {array.dtype}, not {dtype}.", "Mend the caller.")
    if array.size < MIN_INPUT_ELEMENTS and name not in NUMBERS:
        raise BackendError(
            f"Input {name} of kernel {entry} has {array.size} elements.",
            f"Pad it to {MIN_INPUT_ELEMENTS}, so that Metal keeps it in device memory.",
        )


def _is_number(value: str) -> bool:
    return value.lstrip("-").isdigit()


def _type_name(dtype: Any) -> str:
    return _NAMES[str(dtype).rsplit(".", 1)[-1]]


def _bytes(shape: tuple[int, ...], dtype: Any) -> int:
    return int(np.prod(shape)) * int(dtype.size)


def _to_numpy(array: Array) -> np.ndarray:
    import mlx.core as mx

    return _aligned(np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array, copy=False))


def _aligned(view: np.ndarray) -> np.ndarray:
    """The same strided view over memory that begins as GPU buffers do, at a multiple of 256 bytes."""
    low, high = np.lib.array_utils.byte_bounds(view)
    room = np.empty(high - low + 256, np.uint8)
    start = -room.ctypes.data % 256
    ctypes.memmove(room.ctypes.data + start, low, high - low)
    offset = view.ctypes.data - low
    return np.ndarray(view.shape, view.dtype, room[start:], offset, view.strides)


def _buffer(name: str, data: np.ndarray, written: np.ndarray | None) -> tuple[_Buffer, tuple[Any, ...]]:
    """The C structure of an array, and what must stay alive with it."""
    shape = (ctypes.c_int * max(1, data.ndim))(*data.shape)
    strides = (ctypes.c_int64 * max(1, data.ndim))(*(stride // data.itemsize for stride in data.strides))
    mark = None if written is None else written.ctypes.data
    low, high = np.lib.array_utils.byte_bounds(data)
    buffer = _Buffer(name.encode(), low, high - low, shape, strides, mark)
    return buffer, (shape, strides, data, written)
