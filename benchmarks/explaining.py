"""What looking into a network takes: images/s through `sgekit explain` against the network alone,
and memory over the number of images.

    python benchmarks/explaining.py --out docs/results/explaining.json

Each round runs both over the same JPEG files of 224 pixels: the network alone on tensors that are
ready, and everything that `sgekit explain` does until the figures are drawn: decode, resize, run,
record all layers, sum up, keep the maps of some images. What it does once before 1,000 images, a
copy with BatchNorm folded, is timed apart. Memory is the process's largest resident set after so
many images, each number in a process of its own.
"""

import json
import multiprocessing
import resource
import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from common import arguments, keep, measure, ratios, seconds_of
from PIL import Image
from torch import nn

from sgekit.explanation.explained import explain_data
from sgekit.explanation.sources import open_source
from sgekit.explanation.subject import Classifier
from sgekit.models import build
from sgekit.modules import SpatialGroupEnhance
from sgekit.training.checkpoint import Identity

WHO = Identity("resnet50", "sge", None, tuple(map(str, range(1000))), 224, 0.875, "bicubic")


def network(model: str) -> nn.Module:
    torch.manual_seed(0)
    made = build(model, "sge")
    for module in made.modules():
        if isinstance(module, SpatialGroupEnhance):
            nn.init.normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return made.eval()


def files(folder: Path, count: int) -> list[str]:
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        coarse = rng.integers(0, 256, (14, 14, 3), dtype=np.uint8)
        path = folder / f"{number:05}.jpg"
        Image.fromarray(coarse).resize((224, 224), Image.Resampling.BICUBIC).save(path)
        paths.append(str(path))
    return paths


def look(subject: Classifier, paths: list[str], batch_size: int) -> None:
    """With as large a share of images shown as 24 of 1,000."""
    show = max(1, round(0.024 * len(paths)))
    explain_data(subject, open_source(paths), show=show, batch_size=batch_size)


def peak(task: tuple[str, list[str], int, int]) -> float:
    """MiB of a process that looks at so many images."""
    model, paths, batch_size, threads = task
    torch.set_num_threads(threads)
    look(Classifier(network(model), "cpu", who=WHO), paths, batch_size)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = arguments(__doc__, 7)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=64, help="of a round")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--memory", type=int, nargs="*", default=[100, 1000], help="images")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = files(Path(folder), max(options.images, *options.memory, 1))
        some = paths[: options.images]
        model = network(options.model)
        subject = Classifier(model, "cpu", who=WHO)
        data = open_source(some)
        ready = torch.stack(
            [
                subject.item(data.split[i].image, {}, (), None, "").inputs
                for i in range(len(data.split))
            ]
        )

        def alone() -> None:
            with torch.inference_mode():
                for batch in ready.split(options.batch_size):
                    model(batch)

        preparing = seconds_of(lambda: subject.expect(1000))
        runs = {"network": alone, "explain": lambda: look(subject, some, options.batch_size)}
        seconds = measure(runs, options.rounds)
        speed = ratios(seconds, "network", "explain")
        rows = [
            {
                "images": len(some),
                "speed": speed,
                "network_images_per_s": len(some) / statistics.median(seconds["network"]),
                "explain_images_per_s": len(some) / statistics.median(seconds["explain"]),
                "folding_s": preparing,
            }
        ]
        print(json.dumps(rows, indent=2))
        memory = {}
        context = multiprocessing.get_context("spawn")
        for count in options.memory:
            with context.Pool(1) as pool:
                task = (options.model, paths[:count], options.batch_size, torch.get_num_threads())
                memory[str(count)] = pool.map(peak, [task])[0]
            print(f"{count} images: {memory[str(count)]:.0f} MiB")
    keep(options, rows, model=options.model, threads=torch.get_num_threads(), peak_mib=memory)


if __name__ == "__main__":
    main()
