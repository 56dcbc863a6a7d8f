"""The parts of `gpu` that measure the kernels: errors, speed, and speed with other tiles."""

import argparse
import gc
import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import (
    CONTENDERS,
    LAYOUTS,
    Formula,
    measure,
    ratios,
    replay,
    seconds_on_gpu,
)
from torch import Tensor, nn
from torch.nn import functional as F

import sgekit
from sgekit.ops import triton as kernels
from sgekit.ops import triton_tail
from sgekit.ops.reference import enhance
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_kernels.configuration import Sizes

GROUPS = 64
STAGES = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
DETECTION = ((2, 256, 200, 336), (16, 256, 200, 336))
HALVES = ((4, 256, 56, 56), (4, 2048, 7, 7), (2, 256, 200, 336), (3, 67, 31, 2))
"""Shapes whose errors are taken in half precision too."""
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICE = "cuda"
TIMES = 5
"""Runs in a graph."""


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
                if name != "fp32" and shape not in HALVES:
                    continue
                for mean in (0.5, 1000.0) if name == "fp32" else (0.5,):
                    made = case(shape, groups, dtype, memory_format, mean)
                    for what, found in errors_of(*made).items():
                        rows.append(
                            {"shape": shape, "layout": layout, "type": name, "mean": mean,
                             "tensor": what, **found}
                        )  # fmt: skip
    moved = sum(row["moved"] for row in rows)
    print(f"errors: {moved} numbers differ when the same is called again")
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
    truth in the type of x alone errs, "moved" how many numbers a second call gives otherwise:
    none, unless programs get in each other's way."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias)]

    def ours_of() -> tuple[Tensor, ...]:
        y, *saved = kernels.forward(x, weight, bias, residual, 1e-5, 1, "relu")
        dx, _, dweight, dbias = kernels.backward(dy, x, weight, bias, *saved, y, 1e-5, 1)
        return y, dx, dweight.sum(0), dbias.sum(0)

    ours, again = ours_of(), ours_of()
    y = ours[0]
    truth = enhance(*leaves, residual.double(), 1e-5, 1, None)
    expected = truth.relu(), *torch.autograd.grad(truth, leaves, dy.double() * (y > 0))
    out = compare(("y", "dx", "dweight", "dbias"), ours, again, expected, x.dtype)
    del leaves, truth, expected

    gamma, beta = torch.rand(x.shape[1], device=DEVICE) + 0.5, torch.randn_like(x[0, :, 0, 0])
    leaves = [t.detach().double().requires_grad_() for t in (x, weight, bias, gamma, beta)]
    if x.numel() // x.shape[1] < 2:
        return out
    means, mean, var = triton_tail.moments(x, 1)
    norm = mean, (var + 1e-5).rsqrt(), gamma, beta.float()

    def tail_of() -> tuple[Tensor, ...]:
        y, _, *of_c = triton_tail.forward(x, *norm, means, weight, bias, residual, 1e-5, 1, "relu")
        dx, _, dgamma, dbeta, dweight, dbias = triton_tail.backward(
            dy, x, y, *norm, means, *of_c, weight, bias, 1e-5, 1, True
        )
        return y, dx, dweight.sum(0), dbias.sum(0), dgamma, dbeta

    ours, again = tail_of(), tail_of()
    y = ours[0]
    z = F.batch_norm(leaves[0], None, None, leaves[3], leaves[4], True, 0.0, 1e-5)
    truth = enhance(z, leaves[1], leaves[2], residual.double(), 1e-5, 1, None)
    expected = truth.relu(), *torch.autograd.grad(truth, leaves, dy.double() * (y > 0))
    names = [f"tail {n}" for n in ("y", "dx", "dweight", "dbias", "dgamma", "dbeta")]
    return out | compare(names, ours, again, expected, x.dtype)


def compare(names: Any, ours: Any, again: Any, expected: Any, dtype: torch.dtype) -> dict[str, Any]:
    out = {}
    for name, one, other, true in zip(names, ours, again, expected, strict=True):
        largest, norm = float(true.abs().max()) or 1.0, float(true.norm()) or 1.0
        away = one.double() - true
        rounded = true.to(dtype).double() - true
        half = dtype != torch.float32 and one.dtype == dtype
        out[name] = {
            "largest": float(away.abs().max()) / largest,
            "rms": float(away.norm()) / norm,
            "moved": int((one != other).sum()),
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
            runs = calls(shape, torch.bfloat16, memory_format)
            rows += told({"layout": layout, "shape": shape}, graphed(runs, options.rounds))
            alone = {"copy": runs["copy"], **layers(shape, torch.bfloat16, memory_format)}
            seconds = measure(alone, options.rounds, seconds_on_gpu)
            rows += told({"layout": layout, "shape": shape}, seconds)
    return rows


UNITS = {"forward": 2, "residual, relu": 3, "backward": 3, "tail": 4, "tail backward": 7}
"""How many times ours must read or write the map; a copy does twice."""


def graphed(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    graphs = {name: replay(run, TIMES) for name, run in runs.items()}
    seconds = measure(graphs, rounds, seconds_on_gpu)
    return {name: [t / TIMES for t in times] for name, times in seconds.items()}


def told(of: dict[str, Any], seconds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """A row for each run, printed."""
    rows = []
    for name, times in seconds.items():
        copies = ratios(seconds, name, "copy")
        row = {**of, "name": name, "copies": copies, "milliseconds": [1e3 * s for s in times]}
        at = ""
        if name in UNITS:
            both = zip(seconds["copy"], times, strict=True)
            row["share"] = statistics.median([UNITS[name] / 2 * c / t for c, t in both])
            at = f", {row['share']:.0%} of copying's speed"
        rows.append(row)
        where = " ".join(str(value) for value in of.values())
        print(f"{where} {name}: {copies['median']:.2f} copies{at}", flush=True)
    return rows


def calls(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, Callable[[], Any]]:
    """The kernels, and what they are measured by."""
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

    return {
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


def layers(
    shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format
) -> dict[str, Callable[[], Any]]:
    """Modules, as one calls them from Python."""
    x, dy = (random(shape, dtype, layout) for _ in range(2))
    made: dict[str, Callable[[], nn.Module]] = {
        "sgekit module": lambda: sgekit.SpatialGroupEnhance(shape[1]),
        "formula": lambda: Formula(GROUPS),
        **{name: partial(make, shape[1]) for name, make in CONTENDERS.items()},
    }
    if shape[1:] in STAGES:  # compiling takes seconds
        made["formula compiled"] = lambda: torch.compile(Formula(GROUPS), dynamic=False)
    runs = {}
    for name, make in made.items():
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        runs[f"{name}: forward and backward"] = partial(
            both_ways, make().to(DEVICE, dtype), leaf, dy
        )
    return runs


def both_ways(layer: nn.Module, leaf: Tensor, dy: Tensor) -> None:
    torch.autograd.grad(layer(leaf), [leaf, *layer.parameters()], dy)


# -- tiles -------------------------------------------------------------------------------------

VARIANTS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "one map, 32 a thread": {"ONE": Sizes(4096, 8192, 4096, 32)},
    "one map, 32 a thread, 8192": {"ONE": Sizes(8192, 8192, 8192, 32)},
    "two maps, 16 a thread": {"TWO": Sizes(4096, 8192, 4096, 16)},
    "two maps, 64 a thread": {"TWO": Sizes(8192, 8192, 8192, 64)},
    "few positions, 8 a thread": {"FEW": Sizes(2048, 2048, 1024, 8)},
    "few positions, 32 a thread": {"FEW": Sizes(4096, 4096, 4096, 32)},
    "near 32 KB": {"NEAR": 2**15},
    "near 128 KB": {"NEAR": 2**17},
    "near 256 KB": {"NEAR": 2**18},
    "half a set": {"SET": 2**18},
    "two sets": {"SET": 2**20},
    "half as far apart": {"APART": 384},
    "twice as far apart": {"APART": 1536},
}


def tiles(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The kernels with other sizes."""
    rows = []
    shapes = [(options.batch, *stage) for stage in STAGES] + list(DETECTION)
    for variant, changed in VARIANTS.items():
        before = {name: getattr(configuration, name) for name in changed}
        for name, value in changed.items():
            setattr(configuration, name, value)
        for layout, memory_format in LAYOUTS.items():
            for shape in shapes:
                free()
                runs = calls(shape, torch.bfloat16, memory_format)
                del runs["add and relu"]
                of = {"variant": variant, "layout": layout, "shape": shape}
                rows += told(of, graphed(runs, max(options.rounds // 3, 3)))
        for name, value in before.items():
            setattr(configuration, name, value)
    return rows


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
