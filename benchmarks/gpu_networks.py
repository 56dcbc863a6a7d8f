"""The parts of `gpu` that measure whole networks: time and memory, and training in fp16."""

import argparse
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from common import Formula, measure, ratios
from gpu_kernels import DEVICE, REHEARSAL, Job, clock, free, random, used
from networks import networks, with_layers
from torch import Tensor
from torch.nn import functional as F

import sgekit

BACKEND = "aot_eager" if REHEARSAL else "inductor"
PIXELS, SCALER_PIXELS = (32, 32) if REHEARSAL else (224, 128)


def network_costs(options: argparse.Namespace) -> Iterator[Job]:
    for compiled in (False, True):
        for what, make in (("training", training), ("inference", inference)):
            label = f"{what}, compiled" if compiled else what
            yield label, partial(network_rows, options, what, make, compiled)


def network_rows(
    options: argparse.Namespace, what: str, make: Callable[..., Callable[[], Any]], compiled: bool
) -> list[dict[str, Any]]:
    used()
    torch._dynamo.reset()
    free()
    names = ("plain", "SGE") if compiled else tuple(networks(options.model))
    runs = {name: make(options, name, compiled) for name in names}
    peaks = {name: peak(run) for name, run in runs.items()}
    seconds = measure(runs, options.rounds, clock)
    rows = []
    for name, times in seconds.items():
        ratio = ratios(seconds, name, "plain")
        rows.append(
            {"what": what, "compiled": compiled, "network": name, "ratio": ratio,
             "milliseconds": [1e3 * s for s in times], "peak": peaks[name]}
        )  # fmt: skip
        print(
            f"  {name}: {ratio['median']:.3f} ({ratio['low']:.3f}–{ratio['high']:.3f}), "
            f"peak {peaks[name] / 2**30:.2f} GiB",
            flush=True,
        )
    return rows


def peak(run: Callable[[], Any]) -> int:
    """Bytes that one run takes beyond what is held before it."""
    run()
    free()
    if REHEARSAL:
        return 0
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - held


def training(options: argparse.Namespace, name: str, compiled: bool) -> Callable[[], Any]:
    torch.manual_seed(0)
    model = networks(options.model)[name]().to(DEVICE, memory_format=torch.channels_last).train()
    step_of: Any = torch.compile(model, backend=BACKEND) if compiled else model
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    x = random((options.batch, 3, PIXELS, PIXELS), torch.float32, torch.channels_last)
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
    run: Any = torch.compile(model, backend=BACKEND) if compiled else model
    x = random((options.batch, 3, PIXELS, PIXELS), torch.bfloat16, torch.channels_last)

    def infer() -> Any:
        with torch.no_grad():
            return run(x)

    return infer


AFTER = 20
"""Steps that still follow the first loss that is not finite, or so many skipped in a row."""


class FormulaInHalf(Formula):
    """Without autocast, which takes sums in float32: as where the network is cast with `half()`."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(DEVICE, enabled=False):
            return super().forward(x.half())


def scaler(options: argparse.Namespace) -> Iterator[Job]:
    """fp16 training on made-up images of ten classes: whether losses and gradients stay finite."""
    made = networks(options.model)
    for name, make in (
        ("SGE", made["SGE"]),
        ("formula", made["formula"]),
        (
            "formula in fp16 throughout",
            partial(with_layers, options.model, lambda _: FormulaInHalf(64)),
        ),
    ):
        yield name, partial(scaled, options, name, make)


def scaled(
    options: argparse.Namespace, name: str, make: Callable[[], torch.nn.Module]
) -> list[dict[str, Any]]:
    if name == "SGE":
        used()
    torch.manual_seed(0)
    free()
    model = make().to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-4)
    scale = torch.amp.GradScaler(DEVICE)
    size, count = SCALER_PIXELS, 4 if REHEARSAL else 64
    classes = torch.randn(10, 3, size, size, device=DEVICE)
    losses, skipped, in_a_row, first = [], 0, 0, None
    for step in range(options.steps):
        target = torch.randint(10, (count,), device=DEVICE)
        x = (classes[target] + torch.randn(count, 3, size, size, device=DEVICE)).contiguous(
            memory_format=torch.channels_last
        )
        with torch.autocast(DEVICE, torch.float16):
            loss = F.cross_entropy(model(x), target)
        optimizer.zero_grad()
        scale.scale(loss).backward()
        before = scale.get_scale()
        scale.step(optimizer)
        scale.update()
        skip = scale.get_scale() < before
        skipped, in_a_row = skipped + skip, in_a_row + 1 if skip else 0
        losses.append(float(loss.detach()))
        if first is None and not math.isfinite(losses[-1]):
            first = step
        if in_a_row > AFTER or (first is not None and step >= first + AFTER):
            break
    finite = sum(map(math.isfinite, losses))
    print(f"  {finite} of {len(losses)} losses finite, {skipped} steps skipped", flush=True)
    return [
        {"network": name, "losses": losses, "skipped": skipped, "first not finite": first,
         "stuck": in_a_row > AFTER}
    ]  # fmt: skip
