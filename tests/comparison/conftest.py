"""Made-up results, complete or not, in the shape of results.json."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest

from sgekit.comparison.results import SCHEMA, Contender, Cost, Results, Run, Speed

MakeResults = Callable[..., Results]


def speed(ratio: float) -> Speed:
    return {
        "images_per_s": {"median": 900 / ratio, "low": 880 / ratio, "high": 930 / ratio},
        "ratio": {"median": ratio, "low": ratio - 0.02, "high": ratio + 0.03},
    }


def cost(train: float, inference: float) -> Cost:
    return {
        "train": speed(train),
        "inference": speed(inference),
        "peak_memory_bytes": 340_000_000,
    }


def run(seed: int, top1: float | None, epochs: int = 3) -> Run:
    return {
        "seed": seed,
        "top1": top1,
        "top5": None,
        "loss": 0.9,
        "best_top1": top1,
        "best_epoch": epochs,
        "epochs": epochs,
        "seconds": 71.2,
        "train_images_per_s": 940.0,
        "curve": [
            {
                "epoch": epoch,
                "train_loss": 2.0 / epoch,
                "val_loss": 2.1 / epoch,
                "val_top1": None if top1 is None else top1 * epoch / epochs,
            }
            for epoch in range(1, epochs + 1)
        ],
    }


def build(
    top1: dict[str, Sequence[float | None]],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    complete: bool = True,
    priced: bool = True,
    lost: Collection[tuple[str, int]] = (),
    command: str = "sgekit compare",
) -> Results:
    """Results with the given accuracies by contender, one a seed; ``lost`` runs never happened."""
    contenders: list[Contender] = [
        {
            "attention": name,
            "parameters": 1_230_000 + 240 * index,
            "operations": {
                "multiply_adds": 21_300_000,
                "other": 1_900_000 + 100_000 * index,
                "attention": 100_000 * index,
            },
            "runs": [
                run(seed, value)
                for seed, value in zip(seeds, values, strict=False)
                if (name, seed) not in lost
            ],
            "cost": cost(1 + 0.1 * index, 1 + 0.01 * index) if priced else None,
        }
        for index, (name, values) in enumerate(top1.items())
    ]
    recipe: dict[str, Any] = {"name": "quick", "epochs": 3, "lr": 0.1, "ema": None}
    return {
        "schema": SCHEMA,
        "sgekit": "0.1.0",
        "command": command,
        "complete": complete,
        "settings": {
            "model": "resnet10_small",
            "attention": list(top1),
            "seeds": list(seeds),
            "groups": 8,
            "image_size": 64,
            "recipe": recipe,
            "data": {
                "name": "scenes",
                "kind": "scenes",
                "path": None,
                "classes": 10,
                "train": 4000,
                "val": 1000,
                "val_name": "val",
                "skipped": 0,
            },
        },
        "environment": {"python": "3.11.2", "torch": "2.15.0", "date": "2026-01-01"},
        "baseline": "none",
        "contenders": contenders,
        "seconds": 431.0,
    }


@pytest.fixture(scope="session")
def make_results() -> MakeResults:
    return build
