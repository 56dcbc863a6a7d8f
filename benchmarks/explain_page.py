"""How large the page of `sgekit explain` is, and how long a browser takes to open it.

    python benchmarks/explain_page.py --out docs/results/explain-page.json

SGE-ResNet-50 with random weights at 224 pixels, 50 of the built-in scenes with their parts: every
layer, group, measure and picture that the page can hold. Opening is from the command to go there
until the page has drawn what is chosen, in headless Chromium with an empty cache.
"""

import shutil
import statistics
import tempfile
from pathlib import Path

import torch
from common import arguments, keep, seconds_of
from explaining import WHO, network
from playwright.sync_api import sync_playwright

from sgekit.data import SceneConfig
from sgekit.data.regions import of_scenes
from sgekit.explanation.explained import explain_data
from sgekit.explanation.report import write_explanation
from sgekit.explanation.subject import Classifier

ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def page(folder: Path, images: int) -> Path:
    data = of_scenes(SceneConfig(image_size=224, train=1, val=images))
    found = explain_data(Classifier(network("resnet50"), "cpu", who=WHO), data, show=images)
    return write_explanation(found, folder, title="SGE-ResNet-50")


def opening(path: Path, rounds: int) -> list[float]:
    """Seconds, each in a browser's new context."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        found = []
        for _ in range(rounds):
            context = browser.new_context(viewport={"width": 1280, "height": 1000})
            tab = context.new_page()

            def opened(tab=tab) -> None:  # type: ignore[no-untyped-def]
                tab.goto(path.resolve().as_uri())
                tab.wait_for_selector("#explorer[aria-busy=false]")

            found.append(seconds_of(opened))
            context.close()
        browser.close()
    return found


def main() -> None:
    parser = arguments(__doc__, 7)
    parser.add_argument("--images", type=int, default=50)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = page(Path(folder), options.images)
        size = path.stat().st_size / 1e6
        seconds = opening(path, options.rounds)
    row = {
        "images": options.images,
        "megabytes": size,
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
    }
    print(
        f"{size:.1f} MB, opens in {row['seconds']:.2f} s ({min(seconds):.2f} to {max(seconds):.2f})"
    )
    keep(options, [row], model="resnet50", threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
