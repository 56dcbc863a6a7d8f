"""The parts of `gpu` that measure the kernels: errors, speed, and speed with other tiles."""

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
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
    seconds_of,
    seconds_on_gpu,
)
from torch import Tensor, nn
from torch.nn import functional as F

import sgekit
from sgekit.ops import triton as kernels
from sgekit.ops import triton_tail
from sgekit.ops.library import Call
from sgekit.ops.reference import enhance
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_kernels.configuration import Sizes

Job = tuple[str, Callable[[], list[dict[str, Any]]]]
"""What is done, and what does it and gives rows; one that fails takes no other with it."""
REHEARSAL = not torch.cuda.is_available()
"""On the CPU, in the interpreter, with tiny maps: whether the script works, no measurement."""
DEVICE = "cpu" if REHEARSAL else "cuda"
GROUPS = 8 if REHEARSAL else 64
STAGES: tuple[tuple[int, ...], ...] = ((256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7))
DETECTION: tuple[tuple[int, ...], ...] = ((2, 256, 200, 336), (16, 256, 200, 336))
HALVES: tuple[tuple[int, ...], ...] = (
    (4, 256, 56, 56), (4, 2048, 7, 7), (2, 256, 200, 336), (3, 67, 31, 2),
)  # fmt: skip
"""Shapes whose errors are taken in half precision too."""
ODD: tuple[tuple[int, ...], ...] = (
    (3, 67, 31, 2), (1, 24, 13, 5), (2, 128, 1, 1), (2, 4096, 5, 3),
)  # fmt: skip
LARGE: tuple[tuple[int, ...], ...] = ((2, 256, 200, 336),)
"""Last: programs wait for one another in them, and what hangs takes the rest with it."""
if REHEARSAL:
    STAGES, DETECTION = ((16, 4, 4), (32, 3, 3)), ((1, 16, 6, 6),)
    ODD, LARGE, HALVES = ((1, 24, 5, 3),), ((1, 16, 6, 6),), ((1, 24, 5, 3),)
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
TIMES = 5
"""Runs in a graph."""


def clock(run: Callable[[], Any]) -> float:
    return seconds_of(run) if REHEARSAL else seconds_on_gpu(run)


def verdicts() -> dict[str, str | None]:
    """Why the package would not take its kernels on this GPU, for maps of both kinds."""
    if REHEARSAL:
        return {"small": kernels.trial(torch.device(DEVICE), False), "large": None}
    found = {}
    for name, shape in (("small", (2, 64, 8, 8)), ("large", (1, 64, 256, 256))):
        call = Call(torch.device(DEVICE), torch.bfloat16, shape, 1, 1, None)
        found[name] = kernels.can_run(call)
    return found


def used() -> None:
    """Raise where plain PyTorch would be measured in the kernels' place."""
    if reasons := [reason for reason in verdicts().values() if reason is not None]:
        raise RuntimeError(f"plain PyTorch would be taken for SGE: {reasons[0]}")


def trial(options: argparse.Namespace) -> Iterator[Job]:
    """What the package finds out before its first call."""

    def tried() -> list[dict[str, Any]]:
        began = time.perf_counter()
        found = verdicts()
        rows = [{"maps": name, "why not": reason} for name, reason in found.items()]
        for name, reason in found.items():
            print(f"  {name} maps: {reason or 'the kernels are taken'}", flush=True)
        rows.append({"maps": "both", "seconds": time.perf_counter() - began})
        return rows

    yield "small and large maps", tried


def random(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)


# -- errors ------------------------------------------------------------------------------------


def errors(options: argparse.Namespace) -> Iterator[Job]:
    """Largest and root mean square error of each tensor, relative to the truth's."""
    for shape in (*((4, *stage) for stage in STAGES[::-1]), *ODD, *LARGE):
        for layout in LAYOUTS:
            for name in TYPES:
                if name == "fp32" or shape in HALVES:
                    for mean in (0.5, 1000.0) if name == "fp32" else (0.5,):
                        label = f"{shape} {layout} {name} mean {mean:g}"
                        yield label, partial(error_rows, shape, layout, name, mean)


def error_rows(shape: tuple[int, ...], layout: str, name: str, mean: float) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    groups = GROUPS if shape[1] % GROUPS == 0 else 1
    made = case(shape, groups, TYPES[name], LAYOUTS[layout], mean)
    rows = []
    for what, found in errors_of(*made).items():
        rows.append(
            {"shape": shape, "layout": layout, "type": name, "mean": mean, "tensor": what, **found}
        )
    worst = max(rows, key=lambda row: row["largest"])
    moved = sum(row["moved"] for row in rows)
    print(f"  largest {worst['largest']:.1e}, of {worst['tensor']}; {moved} differ the second time")
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


def kernel_costs(options: argparse.Namespace) -> Iterator[Job]:
    shapes = [(options.batch, *stage) for stage in STAGES[::-1]] + list(DETECTION)
    for shape in shapes:
        for layout in LAYOUTS:
            yield f"{shape} {layout}", partial(kernel_rows, options, shape, layout)
            yield f"{shape} {layout} modules", partial(module_rows, options, shape, layout)


def kernel_rows(
    options: argparse.Namespace, shape: tuple[int, ...], layout: str
) -> list[dict[str, Any]]:
    free()
    runs = calls(shape, torch.bfloat16, LAYOUTS[layout])
    return told({"layout": layout, "shape": shape}, graphed(runs, options.rounds))


def module_rows(
    options: argparse.Namespace, shape: tuple[int, ...], layout: str
) -> list[dict[str, Any]]:
    used()
    torch._dynamo.reset()
    free()
    runs = layers(shape, torch.bfloat16, LAYOUTS[layout])
    return told({"layout": layout, "shape": shape}, measure(runs, options.rounds, clock))


UNITS = {"forward": 2, "residual, relu": 3, "backward": 3, "tail": 4, "tail backward": 7}
"""How many times ours must read or write the map; a copy does twice."""


def graphed(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    if REHEARSAL:
        return measure(runs, rounds, clock)
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
        print(f"  {name}: {copies['median']:.2f} copies{at}", flush=True)
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
    y = torch.empty_like(x)
    made: dict[str, Callable[[], nn.Module]] = {
        "SGE": lambda: sgekit.SpatialGroupEnhance(shape[1], GROUPS),
        "formula": lambda: Formula(GROUPS),
        **{name: partial(make, shape[1]) for name, make in CONTENDERS.items()},
    }
    if shape[1:] in STAGES and not REHEARSAL:  # compiling takes seconds
        made["formula compiled"] = lambda: torch.compile(Formula(GROUPS), dynamic=False)
    runs: dict[str, Callable[[], Any]] = {"copy": lambda: y.copy_(x)}
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


def tiles(options: argparse.Namespace) -> Iterator[Job]:
    """The kernels with other sizes."""
    shapes = [(options.batch, *stage) for stage in STAGES] + list(DETECTION)
    for variant in VARIANTS:
        for layout in LAYOUTS:
            for shape in shapes:
                label = f"{variant}: {shape} {layout}"
                yield label, partial(tile_rows, options, variant, shape, layout)


def tile_rows(
    options: argparse.Namespace, variant: str, shape: tuple[int, ...], layout: str
) -> list[dict[str, Any]]:
    free()
    changed = VARIANTS[variant]
    before = {name: getattr(configuration, name) for name in changed}
    try:
        for name, value in changed.items():
            setattr(configuration, name, value)
        runs = calls(shape, torch.bfloat16, LAYOUTS[layout])
        del runs["add and relu"]
        of = {"variant": variant, "layout": layout, "shape": shape}
        return told(of, graphed(runs, max(options.rounds // 3, 3)))
    finally:
        for name, value in before.items():
            setattr(configuration, name, value)


def free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
