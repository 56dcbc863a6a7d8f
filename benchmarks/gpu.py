"""The GPU kernels: whether they are right, what they cost, and what whole networks cost.

    python benchmarks/gpu.py --out gpu.json               # everything, within ten minutes
    python benchmarks/gpu.py --parts errors kernels       # some of it
    python benchmarks/gpu.py --parts tiles                # other sizes of tiles and sets

errors     value and every gradient against float64, over shapes, layouts, types and inputs
kernels    the share of the speed of copying, over what each call has to read and write, from
           CUDA graphs; and called from Python the formula, eager and compiled, and timm's SE,
           CBAM and ECA in the same rounds
networks   ResNet-50: training step, inference, eager and compiled, and peak memory
scaler     steps of ResNet-50 in fp16 with a GradScaler, with SGE and with the formula
tiles      not among everything: how fast the kernels are with sizes other than the package's

One round runs everything once, in a new order; a ratio is that of two times of the same round,
its median stands with its quartiles. Every part is written to --out as soon as it is there.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from common import (
    arguments,
    keep,
    measure,
    ratios,
    seconds_on_gpu,
)
from gpu_kernels import DEVICE, errors, free, kernel_costs, random, tiles
from networks import networks
from torch.nn import functional as F

import sgekit

# -- networks ----------------------------------------------------------------------------------


def network_costs(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    for compiled in (False, True):
        for what, make in (("training", training), ("inference", inference)):
            torch._dynamo.reset()
            free()
            names = ("plain", "SGE") if compiled else tuple(networks(options.model))
            runs = {name: make(options, name, compiled) for name in names}
            peaks = {name: peak(run) for name, run in runs.items()} if runs else {}
            seconds = measure(runs, options.rounds, seconds_on_gpu)
            for name, times in seconds.items():
                row = {"what": what, "compiled": compiled, "network": name, "ratio": ratios(
                    seconds, name, "plain"), "milliseconds": [1e3 * s for s in times],
                    "peak": peaks[name]}  # fmt: skip
                rows.append(row)
                ratio = row["ratio"]
                print(
                    f"{what}{', compiled' if compiled else ''}: {name}: {ratio['median']:.3f} "
                    f"({ratio['low']:.3f}–{ratio['high']:.3f}), peak {peaks[name] / 2**30:.2f} GiB",
                    flush=True,
                )
            del runs
    return rows


def peak(run: Callable[[], Any]) -> int:
    """Bytes that one run takes beyond what is held before it."""
    run()
    free()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def training(options: argparse.Namespace, name: str, compiled: bool) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = networks(options.model)[name]().to(DEVICE, memory_format=torch.channels_last).train()
    step_of: Any = torch.compile(model) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    x = random((options.batch, 3, 224, 224), torch.float32, torch.channels_last)
    target = torch.arange(options.batch, device=DEVICE) % 1000

    def step() -> None:
        with torch.autocast(DEVICE, torch.bfloat16):
            loss = F.cross_entropy(step_of(x), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def inference(options: argparse.Namespace, name: str, compiled: bool) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = sgekit.fuse(networks(options.model)[name]()).to(DEVICE, torch.bfloat16)
    model = model.to(memory_format=torch.channels_last)
    run: Any = torch.compile(model) if compiled else model
    x = random((options.batch, 3, 224, 224), torch.bfloat16, torch.channels_last)

    def infer() -> Any:
        with torch.no_grad():
            return run(x)

    return infer


# -- scaler ------------------------------------------------------------------------------------


AFTER = 20
"""Steps that still follow the first loss that is not finite."""


def scaler(options: argparse.Namespace) -> list[dict[str, Any]]:
    """fp16 training on made-up images of ten classes: whether the loss stays finite."""
    rows = []
    for name in ("SGE", "formula"):
        torch.manual_seed(0)
        free()
        model = networks(options.model)[name]().to(DEVICE, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
        scale = torch.amp.GradScaler(DEVICE)
        classes = torch.randn(10, 3, 128, 128, device=DEVICE)
        losses, skipped, first = [], 0, None
        for step in range(options.steps):
            target = torch.randint(10, (64,), device=DEVICE)
            x = (classes[target] + torch.randn(64, 3, 128, 128, device=DEVICE)).contiguous(
                memory_format=torch.channels_last
            )
            with torch.autocast(DEVICE, torch.float16):
                loss = F.cross_entropy(model(x), target)
            optimizer.zero_grad()
            scale.scale(loss).backward()
            before = scale.get_scale()
            scale.step(optimizer)
            scale.update()
            skipped += scale.get_scale() < before
            losses.append(float(loss.detach()))
            if first is None and not math.isfinite(losses[-1]):
                first = step
            if first is not None and step >= first + AFTER:
                break
        finite = sum(map(math.isfinite, losses))
        rows.append(
            {"network": name, "losses": losses, "skipped": skipped, "first not finite": first}
        )
        print(f"scaler: {name}: {finite} of {len(losses)} losses finite, {skipped} steps skipped")
    return rows


PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "errors": errors,
    "kernels": kernel_costs,
    "networks": network_costs,
    "scaler": scaler,
    "tiles": tiles,
}


def main() -> None:
    parser = arguments(__doc__, 15)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[:-1])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--steps", type=int, default=1000, help="of the part scaler")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("this needs a GPU")
    torch._dynamo.config.recompile_limit = 64
    found: list[dict[str, Any]] = []
    for part in options.parts:
        began = time.perf_counter()
        found += [{"part": part, **row} for row in PARTS[part](options)]
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        keep(
            options, found, device=torch.cuda.get_device_name(), batch=options.batch,
            model=options.model, triton=_version(),
        )  # fmt: skip


def _version() -> str:
    import triton

    return str(triton.__version__)


if __name__ == "__main__":
    main()
