"""A detector's report from made-up runs: what it says, and how it looks in a real browser."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from sgekit.analysis import Example, GateMap
from sgekit.comparison.detection_report import detection_parts
from sgekit.comparison.evidence import gather
from sgekit.comparison.report import write_report
from sgekit.figures import style as figure_style
from tests.comparison.detections import MadeUp, made_up
from tests.comparison.pages import opened

SKILL = {"none": 0.6, "sge": 0.75}


def write(made: MadeUp, examples: Sequence[Example] = ()) -> None:
    evidence = gather(made.results, made.plan, made.data, made.out)
    with pytest.MonkeyPatch.context() as patch:
        # Sharp figures take their time, and here nobody looks at them closely.
        patch.setattr(figure_style, "DPI", 60)
        write_report(made.results, examples, made.out, evidence)


def example() -> Example:
    gate = np.linspace(0.2, 0.9, 96, dtype=np.float32).reshape(8, 12)
    maps = tuple(GateMap(g, np.ones((8, 12), np.float32), gate, gate) for g in (3, 5, 7))
    return Example(Image.new("RGB", (120, 80), "orange"), "val/long" * 9, "layer2.0.se", maps)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    made = made_up(tmp_path_factory.mktemp("one"), SKILL)
    write(made, [example()])
    return made


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    skill = SKILL | {"sge(groups=8)": 0.6}
    made = made_up(tmp_path_factory.mktemp("several"), skill, classes=14, masks=True, seeds=(0, 1))
    write(made)
    return made


def test_everything_is_in_the_one_file(one: MadeUp) -> None:
    page = (one.out / "report.html").read_text()
    files = {file.name for file in one.out.iterdir() if file.is_file()}
    assert {"sizes.png", "precision.png", "better-1.jpg", "worse-3.jpg"} <= files
    rows = {row["score"]: row for row in one.results["detection"]}
    assert rows["ap"]["difference"] is not None
    for text in (
        "faster_rcnn on resnet10_small",
        "Where SGE looks",
        "The frames are the annotated boxes",
        "By size and threshold",
        "AP medium",
        f"{100 * rows['ap']['difference']:+.1f}",
        "By class",
        "Images that change most",
        "sge against plain",
        "of the backbone and the pyramid",
    ):
        assert text in page, text
    # Few classes of one contender stand open; so do the images.
    assert page.count("<details open>") == 2
    alt = re.search(r'alt="(val/picture \d+\.png three times: [^"]+)"', page)
    assert alt is not None
    assert re.search(r"annotated .*kind \d; plain found .*; sge found ", alt[1])
    area = re.search(r"at overlap 0.5 and 0.75: plain ([\d.]+) % and ([\d.]+) %; sge", page)
    assert area is not None
    plain = [rows[score]["baseline"] for score in ("ap50", "ap75")]
    assert [float(text) for text in area.groups()] == pytest.approx(
        [100 * value for value in plain if value is not None], abs=0.051
    )
    assert "somebody" not in page
    sources = re.findall(r'(?:src|srcset|href)="([^"]{0,30})', page)
    assert all(source.startswith("data:") for source in sources)


def test_several_contenders_and_many_classes_are_folded(several: MadeUp) -> None:
    page = (several.out / "report.html").read_text()
    assert page.count("<details open>") == 1
    for text in ("sge(groups=8), masks: 14 classes", "mask AP small", "(masks)"):
        assert text in page
    assert (several.out / "mask-sizes.png").exists()
    # Numbered through both contenders.
    assert (several.out / "better-6.jpg").exists()


def test_what_is_not_there_is_left_out(tmp_path: Path) -> None:
    made = made_up(tmp_path, {"none": 1.0, "sge": 0.0}, seeds=(0,))
    evidence = gather(made.results, made.plan, made.data, made.out)
    parts = detection_parts(made.results, evidence, tmp_path)
    (changed,) = parts.changed
    assert (changed.better, len(changed.worse)) == ((), 3)
    assert changed.worse[0].caption.endswith("(seed 0)")
    assert list(parts.scores) == ["sge"]
    del made.results["detection"]
    for contender in made.results["contenders"]:
        contender["runs"] = []
    evidence = gather(made.results, made.plan, made.data, made.out)
    bare = detection_parts(made.results, evidence, tmp_path)
    for nothing in (bare.figures, bare.classes, bare.changed, bare.scores):
        assert not nothing


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (390, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(390, "light", marks=pytest.mark.slow),
    ],
)
def test_report_renders(browser: Browser, one: MadeUp, width: int, scheme: str) -> None:
    with opened(browser, one.out / "report.html", width, scheme) as page:
        assert page.get_by_role("table", name="Box AP on val").is_visible()
        # Three figures above, two of sizes and curves, gates, three gains and three losses.
        assert page.locator("img").count() == 3 + 2 + 1 + 6
        for name in ("COCO's scores by size and threshold", "Box AP of sge by class"):
            assert page.get_by_role("region", name=name).is_visible()
        # A caption does not scroll away with its table.
        captions = page.locator(".scroll caption")
        assert captions.count() > 1
        for index in range(captions.count()):
            box = captions.nth(index).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width


def test_several_fit_a_phone(browser: Browser, several: MadeUp) -> None:
    with opened(browser, several.out / "report.html", 390, "dark") as page:
        assert page.locator("img").count() == 3 + 3 + 12
        for strip in page.locator(".strips img").all():
            assert strip.evaluate("image => image.clientWidth > 320")
