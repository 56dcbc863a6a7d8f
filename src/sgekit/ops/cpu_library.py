"""The compiled library of CPU kernels: finding it, loading it, calling it (csrc/sgekit_cpu.h)."""

import ctypes
import functools
import struct
from ctypes import c_char_p, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import processes

FOLDER = Path(__file__).parent
LIBRARY = FOLDER / "libsgekit_cpu.so"
MISSING = FOLDER / "KERNELS_MISSING"
"""Why the build made no library, in one line."""

ABI = 3
PLANAR, INTERLEAVED = 0, 1
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ISAS = ("best", "baseline", "avx2", "avx512")
"""Instruction sets by their numbers; "baseline" is what every processor of the kind has."""
FUNCTIONS = ("forward", "backward", "moments", "tail_forward", "tail_backward")
_NO_SUCH_ISA = -2


class Map(NamedTuple):
    """A feature map: its first number, and strides in numbers."""

    data: int = 0
    sample: int = 0
    outer: int = 0


NONE = Map()


class Norm(NamedTuple):
    """sgekit_norm: the batch norm in front of the gate, pointers as numbers."""

    mean: int = 0
    var: int = 0
    invstd: int = 0
    weight: int = 0
    bias: int = 0
    means: int = 0
    dweight: int = 0
    dbias: int = 0
    given: bool = False
    batch: bool = False


NO_NORM = Norm()


class NativeCall(NamedTuple):
    """sgekit_call: everything that the kernels read and write, pointers as numbers."""

    layout: int
    dtype: int
    isa: int
    threads: int
    samples: int
    groups: int
    depth: int
    positions: int
    eps: float
    relu: bool
    weight: int = 0
    bias: int = 0
    g: int = 0
    mean: int = 0
    std: int = 0
    x: Map = NONE
    residual: Map = NONE
    y: Map = NONE
    dy: Map = NONE
    dx: Map = NONE
    dz: Map = NONE
    dweight: int = 0
    dbias: int = 0
    norm: Norm = NO_NORM

    def pack(self) -> bytes:
        """As C has it. A packed struct costs a tenth of what one of ctypes does."""
        maps = self.x + self.residual + self.y + self.dy + self.dx + self.dz
        return _CALL.pack(*self[:15], *maps, self.dweight, self.dbias, *self.norm)


_CALL = struct.Struct("@4i4qfi5P" + 6 * "Pqq" + "2P" + "8P2i")


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
    if library.sgekit_abi() != ABI or library.sgekit_call_size() != _CALL.size:
        return (
            f"the kernels in {LIBRARY} are of another version "
            f"({library.sgekit_abi()}, wanted {ABI}); build them again"
        )
    for name in FUNCTIONS:
        getattr(library, f"sgekit_{name}").argtypes = (c_char_p, c_void_p, c_int64)
        workspace = getattr(library, f"sgekit_{name}_workspace")
        workspace.argtypes = (c_char_p,)
        workspace.restype = c_int64
    return library


def run(name: str, call: NativeCall) -> None:
    """Run one of FUNCTIONS. Raises InputError where this machine can't."""
    library = load()
    if isinstance(library, str):
        raise InputError(f'impl="cpu" cannot run here: {library}')
    packed = call.pack()
    size = getattr(library, f"sgekit_{name}_workspace")(packed)
    if size == _NO_SUCH_ISA:
        raise InputError(
            f"this processor, or this build, has no {ISAS[call.isa]}; "
            f"the best here is {ISAS[library.sgekit_best_isa()]}"
        )
    code = size
    if size >= 0:
        workspace: Tensor = torch.empty(size + 64, dtype=torch.uint8, device="cpu")
        aligned = -(-workspace.data_ptr() // 64) * 64
        code = getattr(library, f"sgekit_{name}")(packed, aligned, size)
    if code != 0:
        raise RuntimeError(f"sgekit_{name} refused {call} with code {code}")


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


def threads() -> int:
    """How many threads a call may use; one in the child of a fork."""
    return 1 if processes.forked() else torch.get_num_threads()
