"""What the benchmarks share: contenders, rounds, ratios and the file with everything measured."""

import argparse
import json
import math
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import EcaModule, SEModule
from timm.layers.cbam import CbamModule
from torch import Tensor, nn

LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
CONTENDERS: dict[str, Callable[[int], nn.Module]] = {
    "timm SE": SEModule,
    "timm CBAM": CbamModule,
    "timm ECA": EcaModule,
}
"""Layers for so many channels."""


class Formula(nn.Module):
    """The equations as PyTorch users write them: unbiased deviation, one operator a step."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        x = x.reshape(b * self.groups, c // self.groups, h, w)
        likeness = (x * x.mean((2, 3), keepdim=True)).sum(1, keepdim=True)
        t = likeness.reshape(b * self.groups, -1)
        t = t - t.mean(1, keepdim=True)
        t = t / (t.std(1, keepdim=True) + 1e-5)
        t = t.reshape(b, self.groups, h, w) * self.weight + self.bias
        gate = torch.sigmoid(t).reshape(b * self.groups, 1, h, w)
        return (x * gate).reshape(b, c, h, w)


def seconds_of(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def seconds_on_gpu(run: Callable[[], Any]) -> float:
    """Between two events of the stream, nothing else waiting."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return 1e-3 * float(start.elapsed_time(end))


def replay(run: Callable[[], Any], times: int) -> Callable[[], Any]:
    """A CUDA graph of so many runs: what they take without what starting them from Python does."""
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):  # compiles, warms
        run()
        run()
    torch.cuda.current_stream().wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            run()
    return graph.replay


def measure(
    runs: dict[Any, Callable[[], Any]],
    rounds: int,
    clock: Callable[[Callable[[], Any]], float] = seconds_of,
) -> dict[Any, list[float]]:
    """Seconds of each run in each round."""
    for run in runs.values():  # compiles, warms
        run()
        run()
    seconds: dict[Any, list[float]] = {name: [] for name in runs}
    order = list(runs)
    chance = random.Random(0)
    for _ in range(rounds):
        chance.shuffle(order)
        for name in order:
            seconds[name].append(clock(runs[name]))
    return seconds


def ratios(seconds: dict[str, list[float]], name: str, to: str) -> dict[str, float]:
    both = [a / b for a, b in zip(seconds[name], seconds[to], strict=True)]
    low, middle, high = statistics.quantiles(both, n=4)
    return {"median": middle, "low": low, "high": high}


def arguments(description: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options that all of them have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--out", type=Path, help="a JSON file")
    return parser


def threads_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())


def keep(options: argparse.Namespace, rows: list[dict[str, Any]], **of: Any) -> None:
    """Write what was measured to --out, where it is given."""
    if not options.out:
        return
    result = {
        "machine": platform.processor() or platform.machine(),
        **of,
        "rounds": options.rounds,
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "rows": rows,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(strict(result), indent=1, allow_nan=False)
    options.out.write_text(text + "\n", encoding="utf-8")


def strict(value: Any) -> Any:
    """The same with words for numbers that JSON has not."""
    if isinstance(value, dict):
        return {key: strict(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [strict(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
