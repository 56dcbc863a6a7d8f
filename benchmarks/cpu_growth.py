"""How the CPU kernels' time grows with the area, the channels and the batch.

    python benchmarks/cpu_growth.py --out growth.json --figure growth.png

Forward and backward in fp32 and both layouts, from one point that the three lines share
(8 samples, 256 channels, 28 x 28, 64 groups): areas from 7 x 7 to 336 x 200, 64 to 4096
channels, 1 to 64 samples. Every round runs all points, in a new order; medians over the rounds.
The slope is that of the least squares line through the logarithms, 1 where time is
proportional; maps that leave the caches behind take longer for each number.
"""

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from common import LAYOUTS, arguments, keep, measure, threads_argument
from cpu_ops import GROUPS

from sgekit.ops import cpu, cpu_library
from sgekit.ops.cpu_library import ISAS

mpl.use("Agg")
from matplotlib import pyplot as plt

AREAS = ((7, 7), (14, 14), (28, 28), (56, 56), (100, 84), (168, 100), (336, 200))
CHANNELS = (64, 128, 256, 512, 1024, 2048, 4096)
SAMPLES = (1, 2, 4, 8, 16, 32, 64)
LINES: dict[str, list[tuple[float, tuple[int, int, int, int]]]] = {
    "positions": [(h * w, (8, 256, h, w)) for h, w in AREAS],
    "channels": [(c, (8, c, 28, 28)) for c in CHANNELS],
    "samples": [(b, (b, 256, 28, 28)) for b in SAMPLES],
}


def runs(shape: tuple[int, ...], layout: torch.memory_format) -> dict[str, Callable[[], Any]]:
    x, dy = (torch.randn(shape).contiguous(memory_format=layout) for _ in range(2))
    y = torch.empty_like(x)
    weight, bias = torch.randn(GROUPS) / 2, torch.ones(GROUPS)
    saved = cpu.forward(x, weight, bias, None, 1e-5, 1, None)[1:]
    return {
        "forward": lambda: cpu.forward_into(y, x, weight, bias, None, 1e-5, 1, None),
        "backward": lambda: cpu.backward(dy, x, weight, bias, *saved, None, 1e-5, 1),
    }


def slope(points: list[tuple[float, float]]) -> float:
    x, y = np.log(np.array(points)).T
    return float(np.polyfit(x, y, 1)[0])


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, len(LINES), figsize=(11, 3.6), sharey=True)
    for axis, line in zip(axes, LINES, strict=True):
        for row in (row for row in rows if row["line"] == line):
            x, y = zip(*row["points"], strict=True)
            style = "-" if row["direction"] == "forward" else "--"
            colour = "C0" if row["layout"] == "NCHW" else "C1"
            label = f"{row['direction']}, {row['layout']} (slope {row['slope']:.2f})"
            axis.loglog(x, y, style, marker="o", markersize=3, color=colour, label=label)
        axis.set_xlabel(line)
        axis.grid(visible=True, which="major", alpha=0.3)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("milliseconds")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = arguments(__doc__, 15)
    threads_argument(parser)
    parser.add_argument("--figure", type=Path, help="a picture")
    options = parser.parse_args()
    library = cpu_library.load()
    if isinstance(library, str):
        parser.error(library)
    torch.set_num_threads(options.threads)
    rows = []
    for layout, memory_format in LAYOUTS.items():
        for line, sizes in LINES.items():
            every = {
                (size, direction): run
                for size, shape in sizes
                for direction, run in runs(shape, memory_format).items()
            }
            seconds = measure(every, options.rounds)
            for direction in ("forward", "backward"):
                points = [
                    (size, 1e3 * statistics.median(seconds[size, direction])) for size, _ in sizes
                ]
                row = {"layout": layout, "line": line, "direction": direction}
                rows.append({**row, "points": points, "slope": slope(points)})
                print(f"{layout} {direction} {line}: slope {rows[-1]['slope']:.2f}", flush=True)
    isa = ISAS[library.sgekit_best_isa()]
    keep(options, rows, instruction_set=isa, threads=options.threads)
    if options.figure:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()
