"""What one call of the CPU kernels costs, in multiples of copying the tensor.

    python benchmarks/cpu_ops.py                          # prints a table
    python benchmarks/cpu_ops.py --out cpu_ops.json       # and keeps it, with every round
    python benchmarks/cpu_ops.py --from cpu_ops.json --figure cost.png   # draws what was kept
    python benchmarks/cpu_ops.py --batch 1 --no-compile   # one image; without torch.compile

For the block outputs of a ResNet-50 at 224 x 224, in both layouts: the fused kernels with a fresh
result, with a preallocated one and in place, with residual and ReLU, backward, and in bfloat16;
and in the same rounds what users would otherwise take: the released formula, eager and compiled,
and timm's SE, CBAM and ECA. One round runs everything once, in a new order; a ratio is that of
two times of the same round, its median over the rounds stands with its quartiles.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from common import (
    CONTENDERS,
    LAYOUTS,
    Formula,
    arguments,
    keep,
    measure,
    ratios,
    threads_argument,
)
from torch import Tensor, nn

from sgekit.ops import cpu, cpu_library
from sgekit.ops.cpu_library import ISAS

mpl.use("Agg")
from matplotlib import pyplot as plt

SHAPES = ((256, 56), (512, 28), (1024, 14), (2048, 7))
GROUPS = 64


def both_ways(layer: nn.Module, x: Tensor, dy: Tensor) -> dict[str, Callable[[], Any]]:
    """A layer's inference, and its backward pass alone."""
    leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
    y = layer(leaf)
    wanted = [leaf, *layer.parameters()]

    def forward() -> None:
        with torch.no_grad():
            layer(x)

    return {
        "forward": forward,
        "backward": lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True),
    }


def candidates(
    shape: tuple[int, ...], layout: torch.memory_format, compiled: bool
) -> dict[str, Callable[[], Any]]:
    """Everything that one round runs, by "what it is/what it does"."""
    x, dy, residual = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(3))
    y = torch.empty_like(x)
    # In place: gates near 1, or the map would be gone after some rounds.
    again, half = x.clone(memory_format=torch.preserve_format), x.bfloat16()
    half_y, half_dy = torch.empty_like(half), dy.bfloat16()
    weight, bias = torch.randn(GROUPS) / 2, torch.ones(GROUPS)
    wide = 30 * bias
    saved = cpu.forward(x, weight, bias, None, 1e-5, 1, None)[1:]
    half_saved = cpu.forward(half, weight, bias, None, 1e-5, 1, None)[1:]
    runs: dict[str, Callable[[], Any]] = {
        "copy/forward": lambda: y.copy_(x),
        "copy bf16/forward": lambda: half_y.copy_(half),
        "add and relu/forward": lambda: torch.add(x, residual, out=y).relu_(),
        "sgekit/forward": lambda: cpu.forward_into(y, x, weight, bias, None, 1e-5, 1, None),
        "sgekit/in place": lambda: cpu.forward_into(
            again, again, weight, wide, None, 1e-5, 1, None
        ),
        "sgekit/fresh result": lambda: cpu.forward(x, weight, bias, None, 1e-5, 1, None),
        "sgekit/residual, relu": lambda: cpu.forward_into(
            y, x, weight, bias, residual, 1e-5, 1, "relu"
        ),
        "sgekit/backward": lambda: cpu.backward(dy, x, weight, bias, *saved, None, 1e-5, 1),
        "sgekit bf16/forward": lambda: cpu.forward_into(
            half_y, half, weight, bias, None, 1e-5, 1, None
        ),
        "sgekit bf16/backward": lambda: cpu.backward(
            half_dy, half, weight, bias, *half_saved, None, 1e-5, 1
        ),
    }
    channels = shape[1]
    layers: dict[str, Callable[[], nn.Module]] = {
        "formula": lambda: Formula(GROUPS),
        **{name: partial(make, channels) for name, make in CONTENDERS.items()},
    }
    if compiled:
        layers["formula compiled"] = lambda: torch.compile(Formula(GROUPS), dynamic=False)
    for name, make in layers.items():
        for way, run in both_ways(make(), x, dy).items():
            runs[f"{name}/{way}"] = run
    return runs


def table(rows: list[dict[str, Any]]) -> str:
    """Rows are what was run, columns the shapes."""
    columns = list(dict.fromkeys((row["layout"], tuple(row["shape"])) for row in rows))
    head = [f"{layout} {shape[1]}x{shape[2]}²" for layout, shape in columns]
    lines = ["| times copying | " + " | ".join(head) + " |", "|---" * (len(head) + 1) + "|"]
    for name in dict.fromkeys(row["name"] for row in rows):
        found = [row["copies"] for row in rows if row["name"] == name]
        cells = [f"{c['median']:.2f} ({c['low']:.2f}–{c['high']:.2f})" for c in found]
        lines.append(f"| {name.replace('/', ': ')} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Forward and backward of every layer, in multiples of copying, for the four shapes."""
    names = ["sgekit", "formula compiled", "formula", "timm SE", "timm ECA", "timm CBAM"]
    figure, axes = plt.subplots(2, 2, figsize=(10, 6), sharex=True, sharey="row")
    for line, way in zip(axes, ("forward", "backward"), strict=True):
        for axis, layout in zip(line, LAYOUTS, strict=True):
            for k, name in enumerate(names):
                found = [
                    row["copies"]["median"]
                    for row in rows
                    if row["layout"] == layout and row["name"] == f"{name}/{way}"
                ]
                at = [shape + (k - 2.5) * 0.13 for shape in range(len(found))]
                axis.bar(at, found, 0.13, label=name)
            axis.set_yscale("log")
            axis.axhline(1, color="grey", linewidth=0.8)
            axis.set_xticks(range(len(SHAPES)), [f"{c}x{n}²" for c, n in SHAPES])
            axis.set_title(f"{way}, {layout}", fontsize=10)
    axes[0][0].set_ylabel("times copying the map")
    axes[1][0].set_ylabel("times copying the map")
    axes[0][0].legend(fontsize=7, ncols=2)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = arguments(__doc__, 30)
    threads_argument(parser)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--figure", type=Path, help="a picture")
    parser.add_argument("--from", type=Path, dest="kept", help="measure nothing, draw this file")
    options = parser.parse_args()
    if options.kept:
        rows = json.loads(options.kept.read_text(encoding="utf-8"))["rows"]
        print(table(rows))
        if options.figure:
            draw(rows, options.figure)
        return
    library = cpu_library.load()
    if isinstance(library, str):
        parser.error(library)
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # Every shape is compiled for itself, and none is left to run eagerly.
    torch._dynamo.config.recompile_limit = 4 * len(SHAPES) * len(LAYOUTS)
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    rows = []
    load = Path("/proc/loadavg")
    for layout, memory_format in LAYOUTS.items():
        for channels, size in SHAPES:
            shape = (options.batch, channels, size, size)
            before = load.read_text().split()[0] if load.exists() else None
            seconds = measure(
                candidates(shape, memory_format, not options.no_compile), options.rounds
            )
            for name in seconds:
                copy = "copy bf16/forward" if "bf16" in name else "copy/forward"
                rows.append(
                    {
                        "layout": layout,
                        "shape": shape,
                        "name": name,
                        "copies": ratios(seconds, name, copy),
                        "milliseconds": [1e3 * s for s in seconds[name]],
                        "load": before,
                    }
                )
    print(table(rows))
    isa = ISAS[library.sgekit_best_isa()]
    keep(options, rows, instruction_set=isa, threads=options.threads)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
