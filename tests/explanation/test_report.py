import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import sgekit
from sgekit.data.regions import RegionData
from sgekit.errors import InputError
from sgekit.explanation import figures, report
from sgekit.explanation.explained import Explanation, explain_data
from sgekit.explanation.report import plain, write_csv, write_explanation
from sgekit.explanation.sources import open_source
from sgekit.explanation.tables import summary, tables
from sgekit.figures.style import DARK
from tests.detection.small import detector
from tests.explanation.small import network, scenes, subject


@pytest.fixture(scope="module")
def found() -> Explanation:
    return explain_data(subject(), scenes(), show=3)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sgekit.figures.style.DPI", 40)


@pytest.mark.usefixtures("quick")
def test_everything_is_written(found: Explanation, tmp_path: Path) -> None:
    for name in ("image-9.png", "image-12.svg", "my-image-1.png"):
        (tmp_path / name).write_text("of an earlier run")
    path = write_explanation(found, tmp_path, title="What groups look at")
    names = {file.name for file in tmp_path.iterdir()} - {"my-image-1.png"}
    drawn = ("image-1", "image-2", "image-3", "layers", "histogram", "variance", "classes")
    assert names == {"report.html", "groups.csv"} | {
        f"{name}.{end}" for name in drawn for end in ("png", "svg")
    }
    page = path.read_text()
    assert "What groups look at" in page
    for sentence in summary(found):
        assert sentence.split(",")[0] in page
    for name in ("image-1", "classes"):
        assert ElementTree.parse(tmp_path / f"{name}.svg").getroot().tag.endswith("svg")
        assert Image.open(tmp_path / f"{name}.png").width > 100


def test_the_csv_has_every_group_map_and_region(found: Explanation, tmp_path: Path) -> None:
    write_csv(found, tmp_path / "groups.csv")
    with (tmp_path / "groups.csv").open() as file:
        rows = list(csv.DictReader(file))
    count = sum(len(rows) for rows in found.findings.values())
    assert len(rows) == count
    one = found.findings["gate"][5]
    row = next(
        r
        for r in rows
        if (r["layer"], int(r["group"]), r["map"], r["region"])
        == (one.layer, one.group, "gate", one.region)
    )
    assert float(row["auroc"]) == pytest.approx(one.auroc, rel=1e-5)
    assert row["significant"] == str(one.significant)


def test_plain_values_are_json(found: Explanation) -> None:
    values = json.loads(json.dumps(plain(found), allow_nan=False))
    assert values["kind"] == "gate"
    assert found.score is not None
    assert values["part_score"]["score"] == found.score.score
    assert set(values["maps"]) == {"before", "gate", "after"}
    assert values["layers"]["layer1.0.se"]["size"] == [8, 8]
    assert len(values["stability"]) == 5


def test_words_and_tables(found: Explanation) -> None:
    first, score, own = summary(found)
    assert first.startswith("24 images of scenes, 24 groups in 3 SGE layers. Top-1 on them: ")
    assert "0 is chance" in score
    assert "have a part of their own" in own
    captions = [table.caption for table in tables(found)]
    assert captions == [
        "The best group for each part, by the maps before the layer",
        "The best group for each part, by the maps of the gate",
        "The best group for each part, by the maps after the layer",
        "Groups with a part of their own",
        "Creature against background",
        "When the picture is disturbed",
        "Layers",
    ]
    for table in tables(found):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert not any("nan" in cell for row in table.rows for cell in row)


def test_images_alone_have_maps_and_no_measures(tmp_path: Path) -> None:
    for number in range(3):
        picture = Image.effect_noise((50, 40), 60).convert("RGB")
        picture.save(tmp_path / f"{number}.png")
    data = open_source([str(tmp_path)])
    found = explain_data(subject(), data, show=9)
    assert [len(list(summary(found))), found.score, found.accuracy] == [1, None, None]
    assert [table.caption for table in tables(found)] == ["Layers"]
    assert report.caption(found, found.seen.shown[0]).startswith("seen as ")


def test_groups_are_left_out_where_the_page_would_be_large(
    found: Explanation, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, text = report.page_layers(found, "layer2.0.se")
    assert text == ""
    assert [layer.name for layer in full] == ["layer2.0.se", "layer1.0.se", "layer3.0.se"]
    assert all(len(layer.groups) == layer.total == 8 for layer in full)
    monkeypatch.setattr(report, "MOST_BYTES", 6000)
    small, text = report.page_layers(found, "layer2.0.se")
    kept = len(small[0].groups)
    assert 1 <= kept < 8
    assert f"it holds {kept} groups of each layer" in text
    own = [group for layer, group in found.own["gate"] if layer == "layer2.0.se"]
    shown = [entry.index for entry in small[0].groups]
    assert set(own[:kept]) <= set(shown) or set(shown) <= set(own)


def test_groups_and_layers_that_there_are_not(found: Explanation, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no group 8; its groups are 0 to 7"):
        write_explanation(found, tmp_path, title="t", layer="layer1.0.se", groups=[8])
    with pytest.raises(InputError, match=r"maps of one position here; choose from layer1\.0\.se"):
        write_explanation(found, tmp_path, title="t", layer="layer4.0.se")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["none", "cbam", pytest.param("se", marks=pytest.mark.slow)])
def test_figures_of_every_kind(name: str) -> None:
    data = scenes(3)
    found = explain_data(subject(name), data, show=1, disturb=False, maps=("gate",))
    surveys = found.seen.surveys
    layer = figures.best_layer(surveys)
    groups = figures.top_groups(surveys[layer], 2)
    for drawn in (
        figures.overlays(found.seen.shown[0], layer, groups, found.kind, DARK),
        figures.histogram(surveys, DARK),
        figures.variance(surveys, DARK),
        figures.through_layers(surveys, DARK),
        figures.classes(surveys[layer], found.classes, layer, DARK),
    ):
        assert isinstance(drawn, Figure)
        drawn.draw_without_rendering()


class TestNotebook:
    def test_pictures_files_and_tensors(self, tmp_path: Path) -> None:
        model = network()
        model.train()
        Image.new("RGB", (70, 50), "red").save(tmp_path / "a.png")
        settings = dict(matplotlib.rcParams)
        given: tuple[Any, ...] = (
            Image.effect_noise((40, 60), 90).convert("L"),
            [tmp_path / "a.png", str(tmp_path / "a.png")],
            torch.randn(2, 3, 48, 48),
        )
        for images in given:
            drawn = sgekit.explain(model, images, top=2)
            count = 1 if isinstance(images, Image.Image) else 2
            assert list(drawn) == [
                *(f"image-{n}" for n in range(1, count + 1)),
                *("layers", "histogram", "variance"),
            ]
        assert model.training
        assert dict(matplotlib.rcParams) == settings

    def test_the_layer_and_groups_asked_for(self) -> None:
        drawn = sgekit.explain(
            network(), torch.randn(1, 3, 64, 64), layer="layer2.0.se", groups=[5]
        )
        labels = [axes.get_ylabel() for axes in drawn["image-1"].axes]
        assert "group 5" in labels
        with pytest.raises(InputError, match="no group 64"):
            sgekit.explain(network(), torch.randn(1, 3, 64, 64), groups=[64])
        with pytest.raises(InputError, match="no attention layer 'x'; there are layer1"):
            sgekit.explain(network(), torch.randn(1, 3, 64, 64), layer="x")

    def test_any_network_and_detectors(self) -> None:
        plain = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 2),
        )  # fmt: skip
        assert "image-1" in sgekit.explain(plain, torch.randn(1, 3, 32, 32), group_count=4)
        model: nn.Module = detector("retinanet", attention="sge", groups=4)
        assert "image-1" in sgekit.explain(model, Image.new("RGB", (80, 64)))
        with pytest.raises(InputError, match="takes pictures or files"):
            sgekit.explain(model, torch.randn(1, 3, 64, 64))

    @pytest.mark.parametrize("images", [[], torch.zeros(0, 3, 8, 8), torch.zeros(3, 8, 8), [3]])
    def test_images_that_are_none(self, images: Any) -> None:
        with pytest.raises(InputError):
            sgekit.explain(network(), images)

    def test_networks_of_any_precision_compiled_and_without_classes(self) -> None:
        for made in (network().bfloat16(), network().double()):
            assert "image-1" in sgekit.explain(made, Image.new("RGB", (40, 40)))
        compiled: Any = torch.compile(network(), backend="eager")
        assert "image-1" in sgekit.explain(compiled, torch.randn(1, 3, 32, 32))
        maps = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        assert "image-1" in sgekit.explain(maps, torch.randn(1, 3, 32, 32), group_count=2)
        with pytest.raises(InputError, match="doesn't take images of shape"):
            sgekit.explain(network(), torch.randn(1, 4, 32, 32))
        with pytest.raises(InputError, match="at least 1"):
            sgekit.explain(network(), torch.randn(1, 3, 32, 32), top=0)
        for wrong in (torch.zeros(1, 3, 32, 32).long(), torch.full((1, 3, 32, 32), torch.nan)):
            with pytest.raises(InputError, match="without NaN and infinity"):
                sgekit.explain(network(), wrong)

    def test_a_network_without_a_place(self) -> None:
        with pytest.raises(InputError, match="no attention layers and no place for any"):
            sgekit.explain(nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.randn(1, 3, 8, 8))


def test_regions_without_labels_have_no_accuracy() -> None:
    data = scenes(4)
    unlabelled = RegionData(data.name, data.regions, data.whole, ("x",) * 12, data.split)
    found = explain_data(subject(), unlabelled, disturb=False)
    assert found.accuracy is None
    assert found.score is not None


@pytest.mark.parametrize("images", [1, 3])
def test_constant_gates_and_single_images_have_no_intervals(images: int) -> None:
    looked = subject()
    for module in looked.network.modules():
        if images == 3 and isinstance(module, sgekit.SpatialGroupEnhance):
            module.reset_parameters()  # gates of one constant
    found = explain_data(looked, scenes(images))
    rows = next(t for t in tables(found) if t.caption == "When the picture is disturbed").rows
    cells = [row[1] for row in rows[1:]]
    if images == 3:
        assert set(cells) == {"–"}
    else:
        assert all(re.fullmatch(r"-?\d\.\d\d", cell) for cell in cells)
    entry = plain(found)["stability"][1]
    assert (entry["low"], entry["high"]) == (None, None)
