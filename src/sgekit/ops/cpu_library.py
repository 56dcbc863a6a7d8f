"""The compiled library of CPU kernels: its structs (csrc/sgekit_cpu.h), finding and loading it."""

import ctypes
import functools
import os
from ctypes import POINTER, c_float, c_int32, c_int64, c_void_p
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "libsgekit_cpu.so"
MISSING = FOLDER / "KERNELS_MISSING"
"""Why the build made no library, in one line."""

ABI = 1
PLANAR, INTERLEAVED = 0, 1
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ISAS = ("best", "baseline", "avx2", "avx512")
"""Instruction sets by their numbers; "baseline" is what every processor of the kind has."""
NO_SUCH_ISA = -2


class Map(ctypes.Structure):
    """A feature map: its first number, and strides in numbers."""

    _fields_ = (("data", c_void_p), ("sample", c_int64), ("outer", c_int64))


class NativeCall(ctypes.Structure):
    """Everything that the kernels read and write."""

    _fields_ = (
        *((name, c_int32) for name in ("layout", "dtype", "isa", "threads")),
        *((name, c_int64) for name in ("samples", "groups", "depth", "positions")),
        ("eps", c_float),
        ("relu", c_int32),
        *((name, c_void_p) for name in ("weight", "bias", "g", "mean", "std")),
        *((name, Map) for name in ("x", "residual", "y", "dy", "dx", "dz")),
        *((name, c_void_p) for name in ("dweight", "dbias", "workspace")),
        ("workspace_bytes", c_int64),
    )


@functools.cache
def load() -> ctypes.CDLL | str:
    """The library, or the reason why there is none."""
    if not LIBRARY.exists():
        if MISSING.exists():
            return f"the kernels were not built: {MISSING.read_text(encoding='utf-8').strip()}"
        return f"the kernels were not built: {FOLDER} has no {LIBRARY.name}"
    try:
        _publish_openmp()
        library = ctypes.CDLL(str(LIBRARY))
    except OSError as error:
        return f"the kernels do not load: {error}"
    if library.sgekit_abi() != ABI:
        return (
            f"the kernels in {LIBRARY} are of another version "
            f"({library.sgekit_abi()}, wanted {ABI}); build them again"
        )
    for name in ("forward", "backward"):
        run = getattr(library, f"sgekit_{name}")
        run.argtypes = (POINTER(NativeCall),)
        workspace = getattr(library, f"sgekit_{name}_workspace")
        workspace.argtypes = (POINTER(NativeCall),)
        workspace.restype = c_int64
    # Threads do not survive a fork, and OpenMP's runtime waits for them for ever.
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_one_thread_from_now_on)
    return library


def _publish_openmp() -> None:
    """Let the library find the OpenMP runtime that PyTorch has loaded, and no second one."""
    folder = Path(torch.__file__).parent / "lib"
    for pattern in ("libgomp*", "libomp*", "libiomp*"):
        for path in sorted(folder.glob(pattern)):
            ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)
            return
    # PyTorch is linked to one elsewhere, which then is found through PyTorch.
    for path in sorted(folder.glob("libtorch_cpu.*")):
        ctypes.CDLL(str(path), ctypes.RTLD_GLOBAL)


_forked = False


def _one_thread_from_now_on() -> None:
    global _forked  # noqa: PLW0603  (what a fork does to a process is of the whole process)
    _forked = True


def threads() -> int:
    """How many threads a call may use; one in the child of a fork."""
    return 1 if _forked else torch.get_num_threads()
