"""Compiles the GPU kernels without a GPU and prints, as JSON, what each takes of a processor.

    python -m tests.ops.triton_ahead 90 quick        # or all; 80, 90, 100

Run in a process of its own: in the tests' own the kernels are interpreted.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sgekit.ops.triton_kernels import backward, configuration, forward
from sgekit.ops.triton_kernels.configuration import Tile

# Channels and positions: the block outputs of a ResNet-50, a detector's finest map.
SHAPES = ((256, 3136), (512, 784), (1024, 196), (2048, 49), (256, 67200))
GROUPS = 64
NORM = ("means", "norm_mean", "norm_invstd", "norm_weight", "norm_bias")
MAPS = {"x", "y", "residual", "dy", "dx", "dz"}
SIZES = {"samples", "groups", "d", "n", "blocks", "chunks", "count"}
WIDE = {"means", "norm_mean", "norm_invstd"}


class Case(NamedTuple):
    name: str
    kernel: Any
    absent: tuple[str, ...]
    meta: dict[str, Any]
    tile: Tile


def cases(channels: int, n: int, last: bool, itemsize: int) -> Iterator[Case]:
    """Every kernel that maps of this shape take, each with and without what is optional."""
    d = channels // GROUPS
    tile = configuration.tile(GROUPS, d, n, last)
    alone = configuration.tile(channels, 1, n, last)
    near = tile.near(n, itemsize)

    def meta(of: Tile, **more: Any) -> dict[str, Any]:
        shape = {"GROUPS": of.groups, "DEPTH": of.depth, "POSITIONS": of.positions}
        return {"LAST": last, "WIDE": of.wide(channels, n, last), **shape, **more}

    yield Case("moments", forward.moments, (), meta(alone), alone)
    plain = meta(tile, WHOLE=near, GIVEN=False, RELU=False)
    yield Case("enhance", forward.enhance, (*NORM, "residual"), plain, tile)
    with_sum = meta(tile, WHOLE=near, GIVEN=False, RELU=True)
    yield Case("enhance sum", forward.enhance, NORM, with_sum, tile)
    for given in (True, False) if near else (True,):
        behind = meta(tile, WHOLE=near, GIVEN=given, RELU=True)
        yield Case(f"enhance norm {given}", forward.enhance, ("g",), behind, tile)
    if not near:
        yield Case("scores", forward.scores, NORM, meta(tile), tile)
        yield Case("scores norm", forward.scores, ("g",), meta(tile), tile)
    if tile.near(n, 2 * itemsize):
        yield Case("whole", backward.whole, ("y", "dz"), meta(tile), tile)
        yield Case("whole sum", backward.whole, (), meta(tile), tile)
    else:
        yield Case("sums", backward.sums, (*NORM, "y", "dz"), meta(tile), tile)
        absent = (*NORM, "dnorm_weight", "dnorm_bias")
        yield Case("apply", backward.apply, absent, meta(tile), tile)
    yield Case("sums norm", backward.sums, ("g",), meta(tile), tile)
    yield Case("apply norm", backward.apply, ("g",), meta(tile), tile)
    frozen = ("g", "dnorm_weight", "dnorm_bias")
    yield Case("apply frozen", backward.apply, frozen, meta(tile), tile)
    small = {"GROUPS": tile.groups, "DEPTH": tile.depth}
    yield Case("finish", backward.finish, (*NORM, "of_norm"), small, tile)
    yield Case("finish norm", backward.finish, (), small, tile)


def kind(name: str, case: Case, dtype: str) -> str:
    if name in case.meta or name in case.absent:
        return "constexpr"
    if name in MAPS:
        return "*" + dtype
    if name in SIZES:
        return "i32"
    return "fp32" if name == "eps" else "*fp64" if name in WIDE else "*fp32"


def compiled(case: Case, dtype: str, capability: int) -> dict[str, Any]:
    names = [parameter.name for parameter in case.kernel.params]
    signature = {name: kind(name, case, dtype) for name in names}
    constants = {
        (k,): case.meta.get(name) for k, name in enumerate(names) if signature[name] == "constexpr"
    }
    aligned = {
        (k,): [["tt.divisibility", 16]]
        for k, name in enumerate(names)
        if signature[name].startswith("*")
    }
    source = ASTSource(case.kernel, signature, constants, aligned)
    target = GPUTarget("cuda", capability, 32)
    binary = triton.compile(source, target, options={"num_warps": case.tile.warps})
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        report = subprocess.run(
            [str(tool), "--dump-resource-usage", file.name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert found is not None, report
    registers, stack = map(int, found.groups())
    return {
        "kernel": case.name,
        "tile": list(case.tile),
        "warps": case.tile.warps,
        "registers": registers,
        "stack": stack,
        "shared": binary.metadata.shared,
    }


def main(capability: int, amount: str) -> None:
    quick = amount == "quick"
    rows, done = [], set()
    for (channels, n), last, (dtype, itemsize) in itertools.product(
        (SHAPES[2], SHAPES[4]) if quick else SHAPES,
        (True,) if quick else (False, True),
        (("bf16", 2),) if quick else (("bf16", 2), ("fp16", 2), ("fp32", 4)),
    ):
        for case in cases(channels, n, last, itemsize):
            if quick and (case.name in done or (" " not in case.name and n > 200)):
                continue
            done.add(case.name)
            row = {"channels": channels, "positions": n, "last": last, "type": dtype}
            rows.append(row | compiled(case, dtype, capability))
    print(json.dumps(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
