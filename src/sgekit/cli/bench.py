"""Measure contenders side by side: parameters, operations, images/s, peak memory.

Their steps are timed in turn in one process, the order turned round every time; medians
with first and ninth deciles, and the time relative to none (else the first contender).
"""

import argparse
import math
from dataclasses import asdict
from functools import partial
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.comparison.cost import Load, measure, training_step
from sgekit.comparison.memory import peak_memory
from sgekit.comparison.results import Speed
from sgekit.errors import InputError
from sgekit.models import build, describe
from sgekit.models.contender import split
from sgekit.training.environment import environment
from sgekit.training.machine import resolve_device

EXAMPLES = """examples:
  sgekit bench
  sgekit bench --model resnet50 --attention none,sge,se --batch-size 8 --image-size 224
  sgekit bench --model resnet50 --device cuda --precision bf16 --channels-last --batch-size 256"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="resnet50", metavar="NAME", help="(resnet50)")
    parser.add_argument(
        "--attention",
        type=split,
        default=("none", "sge"),
        metavar="LIST",
        help="(none,sge)",
    )
    shared.add_groups(parser)
    parser.add_argument("--batch-size", type=int, default=8, metavar="INT", help="(8)")
    parser.add_argument("--image-size", type=int, default=224, metavar="INT", help="(224)")
    parser.add_argument("--classes", type=int, default=1000, metavar="INT", help="(1000)")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="(fp32)"
    )
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--rounds", type=int, default=30, metavar="INT", help="at most (30)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=60.0,
        metavar="FLOAT",
        help="for each of training and inference (60)",
    )
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (auto)"
    )
    output.add_out(parser, "runs/bench")


def execute(options: argparse.Namespace) -> int:
    for name in ("batch_size", "image_size", "classes", "rounds"):
        shared.positive(getattr(options, name), f"--{name.replace('_', '-')}")
    names = list(options.attention)
    if not names:
        raise InputError("--attention names nothing; it takes contenders like none,sge")
    if len(set(names)) < len(names):
        raise InputError(
            f"--attention names something twice: {', '.join(names)}; name each contender once"
        )
    if not 0 <= options.seconds < math.inf:
        raise InputError(f"--seconds must be a number, 0 or more, got {options.seconds}")
    load = Load(
        options.batch_size,
        options.image_size,
        options.classes,
        resolve_device(options.device),
        options.precision,
        options.channels_last,
    )
    baseline = "none" if "none" in names else names[0]

    def make(attention: str) -> Any:
        return build(options.model, attention, groups=options.groups, num_classes=options.classes)

    rows: list[dict[str, Any]] = []
    for name in names:
        info = describe(
            options.model, name, groups=options.groups,
            num_classes=options.classes, image_size=options.image_size,
        )  # fmt: skip
        rows.append(
            {
                "attention": name,
                "parameters": info.parameters,
                "operations": asdict(info.operations),
            }
        )
    console = Console(stderr=True)
    costs = measure(
        make,
        names,
        baseline,
        load,
        rounds=options.rounds,
        seconds=options.seconds,
        progress=lambda text: console.print(text, highlight=False),
    )
    for row in rows:
        console.print(f"measuring the peak memory of {row['attention']}", highlight=False)
        made = partial(
            build,
            options.model,
            row["attention"],
            groups=options.groups,
            num_classes=load.num_classes,
        )
        memory = peak_memory(row["attention"], made, load, training_step)
        row["cost"] = costs[row["attention"]] | {"peak_memory_bytes": memory}
    Console().print(_table(options, baseline, rows))
    output.write_results(
        options,
        "bench",
        {
            "load": load.__dict__,
            "baseline": baseline,
            "environment": environment(load.device),
            "rows": rows,
        },
    )
    return 0


def _table(options: argparse.Namespace, baseline: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        title=f"{options.model}, batch {options.batch_size}, {options.image_size} pixels, "
        f"{options.precision}",
        caption=f"time: relative to {baseline} (first to ninth decile); operations "
        "of one image: multiply-adds of convolutions and linear layers + all others",
    )
    for heading in ("attention", "parameters", "operations", "training", "inference", "memory"):
        side: Literal["left", "right"] = "left" if heading == "attention" else "right"
        table.add_column(heading, justify=side, no_wrap=True)
    for row in rows:
        count, cost = row["operations"], row["cost"]
        memory = cost["peak_memory_bytes"]
        table.add_row(
            row["attention"],
            f"{row['parameters']:,}",
            f"{count['multiply_adds'] / 1e9:.3f} G\n+ {count['other'] / 1e9:.3f} G",
            _speed(cost["train"]),
            _speed(cost["inference"]),
            f"{memory / 2**20:,.0f} MiB" if memory is not None else "–",
        )
    return table


def _speed(speed: Speed) -> str:
    rate, ratio = speed["images_per_s"], speed["ratio"]
    return (
        f"{rate['median']:,.1f} img/s\n"
        f"{ratio['median']:.2f}× {ratio['low']:.2f}–{ratio['high']:.2f}"
    )
