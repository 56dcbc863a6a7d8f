"""Images/s that training is fed with, with and without the recipe field `cache`.

    python benchmarks/loading.py --data cifar10 --recipe cifar --threads 1

One process without loader workers. "bytes" is what it does beside a GPU, which shifts, flips and
normalises itself; "all" is with these on the same thread. The three are taken in turn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from sgekit.data import open_data
from sgekit.training.cached import Prepare, cached_training, whole
from sgekit.training.loaders import Samples, TrainBatches, loader, train_transform
from sgekit.training.recipes import get_recipe


def speed(batches: Iterable[Any], count: int, size: int, step: Callable[[Any], Any] | None) -> int:
    """Images/s of the first batches."""
    began = time.perf_counter()
    for batch in islice(batches, count):
        if step is not None:
            step(batch)
    return round(count * size / (time.perf_counter() - began))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", help="as of `sgekit train` (the scenes)")
    parser.add_argument("--recipe", default="cifar")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="a JSON file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    data = open_data(options.data)
    recipe = replace(get_recipe(options.recipe), cache=True)
    size = recipe.batch_size
    began = time.perf_counter()
    cached = cached_training(data.train, recipe, 0, 0)
    decoding = time.perf_counter() - began
    plain = Samples(data.train, train_transform(replace(recipe, cache=False)), 0)
    batches = TrainBatches(len(data.train), size, 0, 0, 1, 1)
    most = len(batches)
    prepare = Prepare()
    found: dict[str, list[int]] = {"bytes": [], "all": [], "without cache": []}
    for _ in range(options.rounds):
        ready = loader(cached, batches, 0, False, whole)
        found["bytes"].append(speed(ready, min(200, most), size, None))
        found["all"].append(speed(ready, min(60, most), size, prepare))
        slow = loader(plain, batches, 0, False)
        found["without cache"].append(speed(slow, min(20, most), size, None))
    result = {
        "data": data.name,
        "images": len(data.train),
        "recipe": recipe.name,
        "threads": options.threads,
        "torch": torch.__version__,
        "decoding_s": round(decoding, 1),
        "images_per_s": {
            name: {"median": statistics.median(all_), "low": min(all_), "high": max(all_)}
            for name, all_ in found.items()
        },
    }
    text = json.dumps(result, indent=1)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
