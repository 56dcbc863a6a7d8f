"""The report in a real browser: it renders, stays off the network and fits small screens."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from sgekit.analysis import Example, GateMap
from sgekit.comparison.report import write_report
from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.comparison.sweep import parse_sweep
from tests.comparison.pages import opened


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


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_report_renders(
    browser: Browser,
    report: Path,
    width: int,
    scheme: str,
) -> None:
    with opened(browser, report, width, scheme) as page:
        table = page.get_by_role("table", name="Accuracy on val")
        assert table.is_visible()
        assert table.get_by_role("row").count() == 3
        assert page.locator("img").count() == 3 + 2


@pytest.mark.parametrize("width", [pytest.param(1280, marks=pytest.mark.slow), 390])
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
