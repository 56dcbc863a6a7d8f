"""What a comparison of detectors has of its own: cost, and scores by size and threshold."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sgekit.comparison.cost import AUTOCAST
from sgekit.comparison.found import read_matches
from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Contender, Results, Run, ScoreDifference
from sgekit.comparison.statistics import paired_difference
from sgekit.comparison.tables import SCORES
from sgekit.data.detection import DetectionData
from sgekit.detection.bootstrap import paired_bootstrap
from sgekit.models import count_operations
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.detection_run import build_detector
from sgekit.training.settings import RunSettings


@dataclass(frozen=True)
class DetectorLoad:
    """What is timed: pictures of one size with a few objects each."""

    batch_size: int
    height: int
    width: int
    num_classes: int
    masks: bool
    device: str
    precision: str = "fp32"

    @classmethod
    def of(cls, plan: Plan, recipe: DetectionRecipe, classes: int, device: str) -> "DetectorLoad":
        """At most two pictures of the recipe's size, 4:3."""
        side = recipe.min_size[-1]
        masks = "mask" in str(plan.detector)
        size = min(2, recipe.batch_size)
        width = min(recipe.max_size, side * 4 // 3)
        return cls(size, side, width, classes, masks, device, recipe.precision)

    def place(self, network: nn.Module) -> nn.Module:
        """The detector on the device."""
        return network.to(self.device)

    def batch(self) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
        """Noise with four objects a picture, the same at every call."""
        generator = torch.Generator().manual_seed(0)
        images, targets = [], []
        for _ in range(self.batch_size):
            images.append(torch.rand(3, self.height, self.width, generator=generator))
            corner = torch.rand(4, 2, generator=generator) * 0.6
            size = 0.1 + torch.rand(4, 2, generator=generator) * 0.3
            scale = torch.tensor([self.width, self.height] * 2)
            boxes = torch.cat([corner, corner + size], 1) * scale
            target = {
                "boxes": boxes,
                "labels": torch.randint(1, self.num_classes + 1, (4,), generator=generator),
            }
            if self.masks:
                target["masks"] = torch.stack([self._filled(box) for box in boxes])
            targets.append({name: value.to(self.device) for name, value in target.items()})
        return [image.to(self.device) for image in images], targets

    def _filled(self, box: Tensor) -> Tensor:
        mask = torch.zeros(self.height, self.width, dtype=torch.uint8)
        x0, y0, x1, y1 = (int(value) for value in box)
        mask[y0:y1, x0:x1] = 1
        return mask

    def autocast(self) -> torch.autocast:
        dtype = AUTOCAST[self.precision]
        return torch.autocast(torch.device(self.device).type, dtype, enabled=dtype is not None)


def training_step(network: nn.Module, load: DetectorLoad) -> Callable[[], None]:
    """A function that takes one SGD step on the load's batch."""
    images, targets = load.batch()
    network.train()
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=1e-5, momentum=0.9)

    def step() -> None:
        with load.autocast():
            losses = network(images, targets)
        optimizer.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def describe_detector(settings: RunSettings, classes: int) -> Contender:
    """A contender without runs: all parameters; operations of backbone and pyramid."""
    recipe = settings.detection
    model: Any = build_detector(settings, classes)
    side = recipe.min_size[-1]
    size = (3, _padded(side), _padded(min(recipe.max_size, side * 4 // 3)))
    operations = count_operations(model.backbone, size)
    return {
        "attention": settings.attention,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "operations": {
            "multiply_adds": operations.multiply_adds,
            "other": operations.other,
            "attention": operations.attention,
        },
        "runs": [],
    }


def _padded(side: int) -> int:
    return -(-side // 32) * 32


def score_differences(
    results: Results, plan: Plan, data: DetectionData, out: Path, resamples: int = 1000
) -> list[ScoreDifference]:
    """Every score of every contender against the baseline, paired by seed and by image."""
    runs = {c["attention"]: {r["seed"]: r for r in c["runs"]} for c in results["contenders"]}
    base = runs[results["baseline"]]
    folders = {(s.attention, s.seed): s.out for s in plan.runs(out)}
    truth = data.val.ground_truth()
    rows: list[ScoreDifference] = []
    for name, own in runs.items():
        seeds = sorted(own.keys() & base.keys())
        if name == results["baseline"] or not seeds:
            continue
        for kind in ("box", "mask"):
            if any(_scores(run)[kind] is None for run in (*own.values(), *base.values())):
                continue
            sides = [
                [read_matches(truth, folders[who, seed], kind) for seed in seeds]
                for who in (name, results["baseline"])
            ]
            images = paired_bootstrap(sides[0], sides[1], resamples=resamples)
            for score in SCORES:
                mine, theirs = (
                    [_scores(side[seed])[kind][score] for seed in seeds] for side in (own, base)
                )
                interval = images.get(score)
                rows.append(
                    _row(
                        name,
                        score if kind == "box" else f"mask_{score}",
                        mine,
                        theirs,
                        interval.low if interval else None,
                        interval.high if interval else None,
                    )
                )
    return rows


def _row(
    name: str,
    score: str,
    mine: Sequence[float | None],
    theirs: Sequence[float | None],
    low: float | None,
    high: float | None,
) -> ScoreDifference:
    pairs = [(a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None]
    found = paired_difference([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None
    return {
        "attention": name,
        "score": score,
        "baseline": float(np.mean([b for _, b in pairs])) if pairs else None,
        "value": float(np.mean([a for a, _ in pairs])) if pairs else None,
        "n": len(pairs),
        "difference": found.mean if found else None,
        "low": found.low if found else None,
        "high": found.high if found else None,
        "image_low": low,
        "image_high": high,
    }


def _scores(run: Run) -> Any:
    return run["scores"]  # type: ignore[typeddict-item]
