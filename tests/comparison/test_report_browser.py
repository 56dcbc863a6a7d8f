"""The report in a real browser: it renders, stays off the network and fits small screens."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

from sgekit.analysis import Example, GateMap
from sgekit.comparison.report import write_report
from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.comparison.sweep import parse_sweep

NAMES = ("chromium", "chromium-browser", "google-chrome")
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = next((found for name in NAMES if (found := shutil.which(name))), None)
    if path is None:
        message = f"no Chromium on this machine (looked for {', '.join(NAMES)})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=list(QUIET))
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def report(make_results: Callable[..., Results], tmp_path_factory: pytest.TempPathFactory) -> Path:
    gate = np.linspace(0.2, 0.9, 64, dtype=np.float32).reshape(8, 8)
    maps = tuple(GateMap(g, np.ones((8, 8), np.float32), gate, gate) for g in (3, 5, 7))
    picture = Image.new("RGB", (64, 64), "orange")
    examples = [Example(picture, f"class {i}, seen as {i}", "layer2.0.se", maps) for i in (0, 1)]
    results = make_results(
        {"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]},
        command="sgekit compare --attention none,sge --seeds 0,1,2 --data " + "long/" * 40,
    )
    results["settings"]["data"]["path"] = "long/" * 40
    return write_report(summarise(results), examples, tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report_renders(
    browser: Browser,
    report: Path,
    width: int,
    scheme: str,
) -> None:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url[:60]))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")

    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()[:60]]
    table = page.get_by_role("table", name="Accuracy on val")
    assert table.is_visible()
    assert table.get_by_role("row").count() == 3
    images = page.locator("img")
    assert images.count() == 3 + 2
    for index in range(images.count()):
        image = images.nth(index)
        assert image.is_visible()
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert len(image.get_attribute("alt") or "") > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing in the narrow layout is cut off by its own box either.
    assert page.locator("table.main").evaluate("t => t.scrollWidth <= t.clientWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in background[4:-1].split(",")) / 3
    assert (lightness < 128) == (scheme == "dark")
    context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_a_sweep_fits(
    browser: Browser, make_results: Callable[..., Results], tmp_path: Path, width: int
) -> None:
    pairs = ",".join(f"{weight}:{bias}" for weight in (0, 1) for bias in (0, 1))
    sweep = parse_sweep(f"weight_init,bias_init={pairs}", ["sge(normalize=false)"])
    top1 = {name: [0.7, 0.74, 0.72] for name in ("none", *sweep.contenders)}
    results = make_results(top1 | {sweep.contenders[0]: [0.71, 0.76, 0.73]})
    results["sweep"] = sweep.among(list(top1))
    report = write_report(summarise(results), [], tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.goto(report.as_uri())
    image = page.get_by_role("img", name="by weight_init and bias_init")
    assert image.is_visible()
    assert image.evaluate("image => image.naturalWidth > 0 && image.clientWidth > 320")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator("table.main").evaluate("t => t.scrollWidth <= t.clientWidth")
    page.close()
