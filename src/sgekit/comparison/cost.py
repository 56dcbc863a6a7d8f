"""What attention costs: time measured in turn with the plain network, and peak memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgekit.comparison.results import Cost, Speed, Spread
from sgekit.training.machine import explain_batch_norm
from sgekit.training.recipes import Recipe

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Timed(Protocol):
    """What networks are timed with."""

    @property
    def batch_size(self) -> int: ...

    @property
    def device(self) -> str: ...

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the memory format that is timed."""
        ...


@dataclass(frozen=True)
class Load:
    """What is timed: the images a step, their size, the device and the number format."""

    batch_size: int
    image_size: int
    num_classes: int
    device: str
    precision: str = "fp32"
    channels_last: bool = False

    @classmethod
    def of(cls, recipe: Recipe, num_classes: int, device: str) -> "Load":
        """The load of a recipe's training steps."""
        return cls(
            recipe.batch_size // recipe.accumulate,
            recipe.image_size,
            num_classes,
            device,
            recipe.precision,
            recipe.channels_last,
        )

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random images (B, 3, S, S) and labels (B,), the same at every call."""
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(
            self.batch_size, 3, self.image_size, self.image_size, generator=generator
        )
        labels = torch.randint(self.num_classes, (self.batch_size,), generator=generator)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.to(self.device), labels.to(self.device)

    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in the memory format that is timed."""
        network = network.to(self.device)
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def autocast(self) -> torch.autocast:
        dtype = AUTOCAST[self.precision]
        return torch.autocast(torch.device(self.device).type, dtype, enabled=dtype is not None)


def training_step(network: nn.Module, load: Load) -> Callable[[], None]:
    """A function that takes one SGD step on the load's batch."""
    images, labels = load.batch()
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        with load.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def inference(network: nn.Module, load: Any) -> Callable[[], None]:
    """A function that classifies the load's batch, or finds objects in it."""
    images, _ = load.batch()
    network.eval()

    def step() -> None:
        with torch.inference_mode(), load.autocast():
            network(images)

    return step


def interleave(
    steps: Mapping[str, Callable[[], None]], rounds: int, device: str, seconds: float
) -> dict[str, list[float]]:
    """Seconds of each step, taken in turn; fewer rounds (at least 5) when time runs out."""

    def synchronize() -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        elif device == "mps":
            torch.mps.synchronize()

    with explain_batch_norm():
        for step in steps.values():
            step()
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    deadline = time.perf_counter() + seconds
    for number in range(rounds):
        if number >= 5 and time.perf_counter() > deadline:
            break
        # Turning the order round cancels what one contender leaves in the caches for the next.
        names = list(steps) if number % 2 == 0 else list(steps)[::-1]
        for name in names:
            synchronize()
            began = time.perf_counter()
            steps[name]()
            synchronize()
            times[name].append(time.perf_counter() - began)
    return times


def _spread(values: list[float]) -> Spread:
    if len(values) < 2:
        return {"median": values[0], "low": values[0], "high": values[0]}
    deciles = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "low": deciles[0], "high": deciles[-1]}


def _speed(times: dict[str, list[float]], name: str, baseline: str, load: Timed) -> Speed:
    pairs = zip(times[name], times[baseline], strict=True)
    return {
        "images_per_s": _spread([load.batch_size / t for t in times[name]]),
        "ratio": _spread([mine / base for mine, base in pairs]),
    }


def measure(
    build: Callable[[str], nn.Module],
    contenders: list[str],
    baseline: str,
    load: Timed,
    *,
    rounds: int = 40,
    seconds: float = 10.0,
    progress: Callable[[str], None] = lambda _: None,
    kinds: Mapping[str, Callable[[nn.Module, Any], Callable[[], None]]] | None = None,
) -> dict[str, Cost]:
    """Training and inference time of every contender, in turn with the baseline.

    ``kinds`` makes the steps "training" and "inference" of a network and load, for networks
    that are no classifiers. ``seconds`` bounds each of the two measurements. Spreads are the
    first and ninth deciles over the rounds. Peak memory is left open: see
    `sgekit.comparison.memory`.
    """
    networks = {name: load.place(build(name)) for name in contenders}
    times: dict[str, dict[str, list[float]]] = {}
    made = kinds or {"training": training_step, "inference": inference}
    for kind, make in made.items():
        progress(f"timing {kind} of {', '.join(contenders)} in turn")
        steps = {name: make(network, load) for name, network in networks.items()}
        times[kind] = interleave(steps, rounds, load.device, seconds)
    return {
        name: {
            "train": _speed(times["training"], name, baseline, load),
            "inference": _speed(times["inference"], name, baseline, load),
            "peak_memory_bytes": None,
        }
        for name in contenders
    }
