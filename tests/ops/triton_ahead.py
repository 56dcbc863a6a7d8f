"""Compiles the GPU kernels without a GPU and prints, as JSON, what each takes of a processor.

    python -m tests.ops.triton_ahead 90 quick        # or all, deep; 80, 90, 100, gfx942

Run in a process of its own: in the tests' own the kernels are interpreted.
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sgekit.ops.triton_kernels import backward, configuration, forward, statistics
from sgekit.ops.triton_kernels.configuration import Tile

# Channels, positions and groups: the block outputs of a ResNet-50, a detector's finest map; then
# numbers that no power of two divides as well, few channels a group, and an odd size.
SHAPES = (
    (256, 3136, 64), (512, 784, 64), (1024, 196, 64), (2048, 49, 64), (256, 67200, 64),
    (320, 784, 64), (72, 3136, 24), (20, 784, 20), (64, 3136, 16),
    (1024, 1050, 64),
)  # fmt: skip
QUICK = SHAPES[0], SHAPES[2], SHAPES[4]
DEEP = (4096, 196, 1), (2048, 49, 1)
"""More than 1,024 channels a group, for which the table has a way out and no more."""
NORM = ("means", "norm_mean", "norm_invstd", "norm_weight", "norm_bias")
MAPS = {"x", "y", "residual", "dy", "dx", "dz"}
SAMPLES = 256
WIDE = {"means", "part_means", "norm_mean", "norm_invstd"}


class Case(NamedTuple):
    name: str
    kernel: Any
    absent: tuple[str, ...]
    meta: dict[str, Any]
    tile: Tile
    sizes: dict[str, int]
    """Whole numbers that it is given."""


def cases(channels: int, n: int, total: int, last: bool, itemsize: int) -> Iterator[Case]:
    """Every kernel that maps of this shape take, each with and without what is optional."""
    d = channels // total
    one, two = (configuration.tile(total, d, n, last, maps) for maps in (1, 2))
    alone = configuration.tile(channels, 1, n, last, 0)

    def case(
        name: str,
        kernel: Any,
        absent: tuple[str, ...] = (),
        more: dict[str, Any] | None = None,
        of: Tile = two,
    ) -> Case:
        groups = channels if name == "moments" else total
        turns = of.turns(SAMPLES, groups, n, last, itemsize, 3)
        sizes = {"samples": SAMPLES, "groups": groups, "n": n, "count": SAMPLES * n}
        sizes |= {"blocks": of.blocks(groups), "chunks": of.chunks(n)}
        sizes |= turns._asdict()
        meta = {"GROUPS": of.groups, "DEPTH": of.depth, "d": channels // groups, **(more or {})}
        if not name.startswith("finish"):
            meta |= of.lies(channels, groups, n, last)
        if "turns" in name or name.startswith("finish"):
            meta["MERGED"] = of.merged
        return Case(name, kernel, absent, meta, of, sizes)

    yield case("moments", statistics.moments, of=alone)
    for name, absent, given, relu, of in (
        ("", (*NORM, "residual"), False, False, one),
        (" sum", NORM, False, True, one),
        (" norm True", ("g", "part_means"), True, True, one),
        (" norm False", ("g",), False, True, two),
    ):
        kernel, called = forward.enhance_in_turns, "enhance turns"
        meta = {"GIVEN": given, "RELU": relu}
        if of.near(n, itemsize):
            kernel, called = forward.enhance, "enhance"
            meta["ONCE"] = of.chunks(n) == 1
        yield case(called + name, kernel, absent, meta, of)
    if two.near(n, 2 * itemsize):
        once = two.chunks(n) == 1
        yield case("whole", backward.whole, ("y", "dz"), {"ONCE": once})
        yield case("whole sum", backward.whole, (), {"ONCE": once})
    else:
        yield case("turns", backward.in_turns, (*NORM, "y", "dz", "of_norm"))
        yield case("turns sum", backward.in_turns, (*NORM, "of_norm"))
        yield case("turns norm", backward.in_turns, ("g",))
    yield case("sums norm", backward.sums, ("g",))
    yield case("apply norm", backward.apply, ("g",))
    yield case("apply frozen", backward.apply, ("g", "dnorm_weight", "dnorm_bias"))
    yield case("finish norm", backward.finish)


def kind(name: str, case: Case, dtype: str) -> str:
    if name in case.meta or name in case.absent:
        return "constexpr"
    if name in MAPS:
        return "*" + dtype
    if name in case.sizes:
        return "i32"
    if name == "state":
        return "*i32"
    return "fp32" if name == "eps" else "*fp64" if name in WIDE else "*fp32"


def source(case: Case, dtype: str) -> ASTSource:
    names = [parameter.name for parameter in case.kernel.params]
    signature = {name: kind(name, case, dtype) for name in names}
    given = {**case.sizes, **case.meta}
    constants = {
        (k,): given.get(name) for k, name in enumerate(names) if signature[name] == "constexpr"
    }
    aligned = {
        (k,): [["tt.divisibility", 16]]
        for k, name in enumerate(names)
        if signature[name].startswith("*")
    }
    return ASTSource(case.kernel, signature, constants, aligned)


def compiled(case: Case, dtype: str, capability: int) -> dict[str, Any]:
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": case.tile.warps}
    binary = triton.compile(source(case, dtype), target, options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        report, code = (
            subprocess.run(
                [str(tool), option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for option in ("--dump-resource-usage", "-sass")
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", report)
    assert found is not None, report
    registers, stack = map(int, found.groups())
    instructions = re.findall(r"/\*[0-9a-f]{4,5}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9_.]*)", code)
    tile = case.tile
    return {
        "kernel": case.name,
        "tile": list(case.tile[:3]),
        "warps": case.tile.warps,
        "registers": registers,
        "stack": stack,
        "shared": binary.metadata.shared,
        "instructions": len(instructions),
        "numbers": tile.groups * tile.depth * tile.positions // (32 * tile.warps),
        "loads": Counter(i for i in instructions if i.startswith("LDG")),
        "stores": Counter(i for i in instructions if i.startswith("STG")),
    }


def for_amd(case: Case, dtype: str, architecture: str) -> dict[str, Any]:
    """What is known of it without AMD's tools: it compiles, and the memory that threads share."""
    target = GPUTarget("hip", architecture, 64 if architecture.startswith("gfx9") else 32)
    options = {"num_warps": case.tile.warps}
    binary = triton.compile(source(case, dtype), target, options=options)
    return {"kernel": case.name, "shared": binary.metadata.shared}


def main(target: str, amount: str) -> None:
    quick = amount == "quick"
    compile_one: Any = for_amd if target.startswith("gfx") else compiled
    of = target if target.startswith("gfx") else int(target)
    rows, done = [], set()
    for (channels, n, groups), last, (dtype, itemsize) in itertools.product(
        {"quick": QUICK, "deep": DEEP}.get(amount, SHAPES),
        (True,) if quick else (False, True),
        (("bf16", 2),) if quick else (("bf16", 2), ("fp16", 2), ("fp32", 4)),
    ):
        for case in cases(channels, n, groups, last, itemsize):
            variant = case.name, case.meta.get("WHOLE"), case.meta.get("ONCE")
            if quick and variant in done:
                continue
            done.add(variant)
            row = {
                "channels": channels,
                "positions": n,
                "groups": groups,
                "last": last,
                "type": dtype,
            }
            rows.append(row | compile_one(case, dtype, of))
    print(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
