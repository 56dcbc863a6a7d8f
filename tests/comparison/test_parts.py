import json
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from sgekit.comparison.parts import FILE, add_parts, regions_of
from sgekit.comparison.plan import Plan
from sgekit.comparison.report import write_report
from sgekit.comparison.results import Results
from sgekit.data import ImageData, SceneConfig, open_data, write_scenes
from sgekit.data.detection import open_detection
from sgekit.errors import InputError
from sgekit.training.recipes import get_recipe
from tests.comparison.conftest import MakeResults
from tests.explanation.small import CONFIG, checkpoint

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def data() -> ImageData:
    return open_data(None, scenes=CONFIG)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    """Two contenders, two seeds; all but one run have ended."""
    made = Plan("resnet10_small", ("none", "sge"), (0, 1), get_recipe("quick", {}), device="cpu")
    for run in made.runs(tmp_path)[:3]:
        run.out.mkdir(parents=True)
        checkpoint(run.out / "last.ckpt", run.attention)
        (run.out / "run.json").write_text("{}")
    return made


def added(plan: Plan, data: ImageData, out: Path) -> Any:
    contenders = [{"attention": name} for name in plan.attention]
    results = cast(Results, {"contenders": contenders, "baseline": "none"})
    add_parts(results, plan, data, None, out, CONSOLE)
    return results.get("parts")


def test_ended_runs_are_measured_once_and_paired(
    plan: Plan, data: ImageData, tmp_path: Path
) -> None:
    none, sge = added(plan, data, tmp_path)
    assert (none["attention"], sorted(none["scores"])) == ("none", ["0", "1"])
    assert none["parts"] == 7
    assert none["difference"] is None
    assert (sge["attention"], sorted(sge["scores"])) == ("sge", ["0"])
    assert sge["sd"] is None
    assert sge["difference"] == pytest.approx(sge["scores"]["0"] - none["scores"]["0"])
    file = plan.runs(tmp_path)[1].out / FILE
    kept = json.loads(file.read_text())
    file.write_text(json.dumps(kept | {"score": 0.875}))
    assert added(plan, data, tmp_path)[1]["scores"] == {"0": 0.875}
    old = {key: value for key, value in kept.items() if key != "chance"}
    file.write_text(json.dumps(old | {"score": 0.875}))
    assert added(plan, data, tmp_path)[1]["scores"] == {"0": pytest.approx(kept["score"])}
    file.write_text("{")
    with pytest.raises(InputError, match=r"parts\.json cannot be read .* delete it"):
        added(plan, data, tmp_path)


def test_a_run_without_its_checkpoint_has_no_score(
    plan: Plan, data: ImageData, tmp_path: Path
) -> None:
    (plan.runs(tmp_path)[1].out / "last.ckpt").unlink()
    assert [entry["attention"] for entry in added(plan, data, tmp_path)] == ["none"]


def test_which_data_have_regions(data: ImageData, tmp_path: Path) -> None:
    of_scenes = regions_of(data, None)
    assert of_scenes is not None
    assert len(of_scenes.split) == CONFIG.val
    root = write_scenes(SceneConfig(image_size=32, train=24, val=12), tmp_path / "scenes")
    written = regions_of(open_data(root), str(root))
    assert written is not None
    assert (len(written.split), written.regions) == (12, of_scenes.regions)
    boxes = regions_of(open_detection(root), str(root))
    assert boxes is not None
    assert boxes.whole == "objects"
    for file in (root / "part_masks").rglob("*"):
        if file.is_file():
            file.unlink()
    (root / "part_masks").rename(root / "gone")
    assert regions_of(open_data(root), str(root)) is None


def test_the_report_tells_them(make_results: MakeResults, tmp_path: Path) -> None:
    results = make_results({"none": [0.5, 0.6], "sge": [0.6, 0.6]}, seeds=(0, 1))
    entry: Any = {
        "attention": "none", "scores": {"0": 0.3, "1": 0.4}, "mean": 0.35, "sd": 0.07,
        "found": 1.5, "parts": 7, "difference": None, "low": None, "high": None,
    }  # fmt: skip
    other = entry | {"attention": "sge", "difference": -0.02, "low": -0.3, "high": 0.26}
    results["parts"] = [entry, other]
    page = write_report(results, [], tmp_path).read_text()
    assert "Which parts the groups point at" in page
    assert "0.350 ± 0.070" in page
    assert "−0.020<small>−0.300 to +0.260</small>" in page
    assert "1.5 of 7" in page
    assert (
        "Which parts"
        not in write_report(
            make_results({"none": [0.5, 0.6], "sge": [0.6, 0.6]}, seeds=(0, 1)), [], tmp_path
        ).read_text()
    )
