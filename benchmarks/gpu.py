"""The GPU kernels: whether they are right, what they cost, and what whole networks cost.

    python benchmarks/gpu.py --out gpu.json               # everything, within ten minutes
    python benchmarks/gpu.py --parts errors kernels       # some of it

errors     value and every gradient against float64, over shapes, layouts, types and inputs
kernels    the share of the speed of copying, over what each call has to read and write; and
           the formula, eager and compiled, and timm's SE, CBAM and ECA in the same rounds
networks   ResNet-50: training step, inference, eager and compiled, and peak memory
scaler     steps of ResNet-50 in fp16 with a GradScaler, with SGE and with the formula

One round runs everything once, in a new order; a ratio is that of two times of the same round,
its median stands with its quartiles. Every part is written to --out as soon as it is there.
"""

import argparse
import gc
import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import (
    CONTENDERS,
    LAYOUTS,
    Formula,
    arguments,
    keep,
    measure,
    ratios,
    seconds_on_gpu,
)
from networks import networks
from torch import Tensor, nn
from torch.nn import functional as F

import sgekit
from sgekit.ops import triton as kernels
from sgekit.ops import triton_tail
from sgekit.ops.reference import enhance

GROUPS = 64
STAGES = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
DETECTION = ((2, 256, 200, 336), (16, 256, 200, 336))
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICE = "cuda"


def random(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)


# -- errors ------------------------------------------------------------------------------------


def errors(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Largest and root mean square error of the tensor, relative to the truth's."""
    torch.manual_seed(0)
    shapes = [(4, *stage) for stage in STAGES] + [
        (2, 256, 200, 336), (3, 67, 31, 2), (1, 24, 13, 5), (2, 128, 1, 1), (2, 4096, 5, 3),
    ]  # fmt: skip
    rows = []
    for shape in shapes:
        groups = GROUPS if shape[1] % GROUPS == 0 else 1
        for layout, memory_format in LAYOUTS.items():
            for name, dtype in TYPES.items():
                for mean in (0.5, 1000.0) if name == "fp32" else (0.5,):
                    made = case(shape, groups, dtype, memory_format, mean)
                    for what, found in errors_of(*made).items():
                        rows.append(
                            {"shape": shape, "layout": layout, "type": name, "mean": mean,
                             "tensor": what, **found}
                        )  # fmt: skip
    worst: dict[tuple[str, float, str], float] = {}
    for row in rows:
        key = row["type"], row["mean"], row["tensor"]
        worst[key] = max(worst.get(key, 0.0), row["largest"] / (row["rounding"] or 1.0))
    for (name, mean, what), value in worst.items():
        print(f"errors: {name} mean {mean:g} {what}: {value:.2e}", flush=True)
    return rows


def case(
    shape: tuple[int, ...], groups: int, dtype: torch.dtype, layout: torch.memory_format,
    mean: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    x = (random(shape, torch.float32, layout) + mean).to(dtype)
    dy, residual = random(shape, dtype, layout), random(shape, dtype, layout)
    weight, bias = (torch.randn(groups, device=DEVICE) for _ in range(2))
    return x, dy, residual, weight, bias


def errors_of(
    x: Tensor, dy: Tensor, residual: Tensor, weight: Tensor, bias: Tensor
) -> dict[str, dict[str, float]]:
    """Of the operation and, as "tail ...", of batch norm with it; "rounding" is what storing the
    truth in the type of x alone errs."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]
    y, *saved = kernels.forward(x, weight, bias, residual, 1e-5, 1, "relu")
    dx, _, dweight, dbias = kernels.backward(dy, x, weight, bias, *saved, y, 1e-5, 1)
    truth = enhance(*leaves, residual.double(), 1e-5, 1, None)
    expected = truth.relu(), *torch.autograd.grad(truth, leaves, dy.double() * (y > 0))
    ours = y, dx, dweight.sum(0), dbias.sum(0)
    out = compare(("y", "dx", "dweight", "dbias"), ours, expected, x.dtype)
    del leaves, truth, expected

    gamma, beta = torch.rand(x.shape[1], device=DEVICE) + 0.5, torch.randn_like(x[0, :, 0, 0])
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias, gamma, beta)]
    if x.numel() // x.shape[1] < 2:
        return out
    means, mean, var = triton_tail.moments(x, 1)
    norm = mean, (var + 1e-5).rsqrt(), gamma, beta.float()
    y, _, *of_c = triton_tail.forward(x, *norm, means, weight, bias, residual, 1e-5, 1, "relu")
    dx, _, dgamma, dbeta, dweight, dbias = triton_tail.backward(
        dy, x, y, *norm, means, *of_c, weight, bias, 1e-5, 1, True
    )
    z = F.batch_norm(leaves[0], None, None, leaves[3], leaves[4], True, 0.0, 1e-5)
    truth = enhance(z, leaves[1], leaves[2], residual.double(), 1e-5, 1, None)
    expected = truth.relu(), *torch.autograd.grad(truth, leaves, dy.double() * (y > 0))
    ours = y, dx, dweight.sum(0), dbias.sum(0), dgamma, dbeta
    names = [f"tail {n}" for n in ("y", "dx", "dweight", "dbias", "dgamma", "dbeta")]
    return out | compare(names, ours, expected, x.dtype)


def compare(names: Any, ours: Any, expected: Any, dtype: torch.dtype) -> dict[str, Any]:
    out = {}
    for name, one, true in zip(names, ours, expected, strict=True):
        largest, norm = float(true.abs().max()) or 1.0, float(true.norm()) or 1.0
        away = one.double() - true
        rounded = true.to(dtype).double() - true
        half = dtype != torch.float32 and one.dtype == dtype
        out[name] = {
            "largest": float(away.abs().max()) / largest,
            "rms": float(away.norm()) / norm,
            "rounding": float(rounded.abs().max()) / largest if half else 0.0,
        }
    return out


# -- kernels -----------------------------------------------------------------------------------


def kernel_costs(options: argparse.Namespace) -> list[dict[str, Any]]:
    rows = []
    shapes = [(options.batch, *stage) for stage in STAGES] + list(DETECTION)
    for layout, memory_format in LAYOUTS.items():
        for shape in shapes:
            torch._dynamo.reset()
            free()
            runs, units = calls(shape, torch.bfloat16, memory_format)
            seconds = measure(runs, options.rounds, seconds_on_gpu)
            for name, times in seconds.items():
                row = {"layout": layout, "shape": shape, "name": name, "copies": ratios(
                    seconds, name, "copy"), "milliseconds": [1e3 * s for s in times]}  # fmt: skip
                if name in units:
                    share = [
                        units[name] / 2 * c / t for c, t in zip(seconds["copy"], times, strict=True)
                    ]
                    row["share"] = statistics.median(share)
                rows.append(row)
                at = f", {row['share']:.0%} of copying's speed" if name in units else ""
                times_copy = row["copies"]["median"]
                print(f"{layout} {shape} {name}: {times_copy:.2f} copies{at}", flush=True)
    return rows


def calls(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> tuple[dict[str, Callable[[], Any]], dict[str, float]]:
    """What a round runs, and for ours how many times the map must be read or written."""
    x, dy, residual = (random(shape, dtype, layout) for _ in range(3))
    y = torch.empty_like(x)
    weight, bias = torch.randn(GROUPS, device=DEVICE) / 2, torch.ones(GROUPS, device=DEVICE)
    saved = kernels.forward(x, weight, bias, None, 1e-5, 1, None)[1:]
    gamma = torch.rand(shape[1], device=DEVICE) + 0.5
    means, mean, var = triton_tail.moments(x, 1)
    norm = mean, (var + 1e-5).rsqrt(), gamma, gamma
    after, _, *of_c = triton_tail.forward(x, *norm, means, weight, bias, residual, 1e-5, 1, "relu")

    def tail() -> None:
        found, middle, spread = triton_tail.moments(x, 1)
        statistics_of = middle, (spread + 1e-5).rsqrt(), gamma, gamma
        triton_tail.forward(x, *statistics_of, found, weight, bias, residual, 1e-5, 1, "relu")

    runs: dict[str, Callable[[], Any]] = {
        "copy": lambda: y.copy_(x),
        "forward": lambda: kernels.forward_into(y, x, weight, bias, None, 1e-5, 1, None),
        "residual, relu": lambda: kernels.forward_into(
            y, x, weight, bias, residual, 1e-5, 1, "relu"
        ),
        "backward": lambda: kernels.backward(dy, x, weight, bias, *saved, None, 1e-5, 1),
        "tail": tail,
        "tail backward": lambda: triton_tail.backward(
            dy, x, after, *norm, means, *of_c, weight, bias, 1e-5, 1, True
        ),
        "add and relu": lambda: torch.add(x, residual, out=y).relu_(),
    }
    layers: dict[str, Callable[[], nn.Module]] = {
        "sgekit module": lambda: sgekit.SpatialGroupEnhance(shape[1]),
        "formula": lambda: Formula(GROUPS),
        "formula compiled": lambda: torch.compile(Formula(GROUPS), dynamic=False),
        **{name: partial(make, shape[1]) for name, make in CONTENDERS.items()},
    }
    for name, make in layers.items():
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        runs[f"{name}: forward and backward"] = partial(
            both_ways, make().to(DEVICE, dtype), leaf, dy
        )
    units = {"forward": 2, "residual, relu": 3, "backward": 3, "tail": 4, "tail backward": 7}
    return runs, units


def both_ways(layer: nn.Module, leaf: Tensor, dy: Tensor) -> None:
    torch.autograd.grad(layer(leaf), [leaf, *layer.parameters()], dy)


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
        finite = sum(map(math.isfinite, losses))
        rows.append(
            {"network": name, "losses": losses, "skipped": skipped, "first not finite": first}
        )
        print(f"scaler: {name}: {finite} of {len(losses)} losses finite, {skipped} steps skipped")
    return rows


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


PARTS: dict[str, Callable[[argparse.Namespace], list[dict[str, Any]]]] = {
    "errors": errors,
    "kernels": kernel_costs,
    "networks": network_costs,
    "scaler": scaler,
}


def main() -> None:
    parser = arguments(__doc__, 15)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
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
