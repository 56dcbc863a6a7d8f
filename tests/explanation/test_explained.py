import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sgekit.analysis import capture
from sgekit.analysis.tally import FINEST
from sgekit.data.regions import Marked, RegionData
from sgekit.errors import InputError
from sgekit.explanation.explained import evenly, explain_data
from sgekit.explanation.look import batches, pooled
from sgekit.explanation.sources import labels_between, open_source
from sgekit.explanation.subject import Classifier, Detector, Item
from sgekit.explanation.tables import summary
from tests.detection.small import detector
from tests.explanation.small import identity, network, scenes, subject


def test_everything_of_a_classifier_on_scenes() -> None:
    found = explain_data(subject(), scenes(), show=3, batch_size=7)
    assert found.seen.images == found.seen.labelled == 24
    assert found.kind == "gate"
    assert set(found.findings) == {"before", "gate", "after"}
    assert [entry.name for entry in found.stability] == [
        *("none", "noise", "crop"),
        *("look-alike", "background"),
    ]
    assert found.score is found.scores["after"]
    assert len(found.seen.shown) == 3
    assert found.seen.shown[0].picture.size == (32, 32)
    before, gate = found.seen.shown[0].maps["layer1.0.se"]
    assert before.shape == gate.shape == (8, 8, 8)


def test_batches_of_any_size_find_the_same() -> None:
    one, other = (explain_data(subject(), scenes(), batch_size=n, disturb=False) for n in (5, 24))
    rows = zip(one.findings["gate"], other.findings["gate"], strict=True)
    for a, b in rows:
        assert (a.layer, a.group, a.region, a.images) == (b.layer, b.group, b.region, b.images)
        assert a.auroc == pytest.approx(b.auroc, abs=1e-5)
        assert a.pointing == pytest.approx(b.pointing, abs=1e-6)
    assert one.seen.correct == other.seen.correct


def test_maps_shown_are_those_of_the_images_alone() -> None:
    data, looked = scenes(), subject()
    found = explain_data(looked, data, show=2, batch_size=24, disturb=False, maps=())
    index = evenly(24, 2)[1]
    marked = data.split[index]
    item = looked.item(marked.image, marked.masks, data.regions, marked.label, "")
    with torch.no_grad(), capture(looked.network) as records:
        looked.network(item.inputs[None])
    torch.testing.assert_close(
        found.seen.shown[1].maps["layer2.0.se"][1], records["layer2.0.se"].gate[0],
        atol=1e-5, rtol=1e-5,
    )  # fmt: skip
    assert not found.findings


def test_the_masks_go_where_the_picture_goes() -> None:
    # A bright square that is the region, off the centre, in a picture that is resized and cropped.
    image = np.zeros((60, 100, 3), dtype=np.uint8)
    image[20:40, 30:50] = 255
    mask = image[..., 0] > 0
    item = subject().item(Image.fromarray(image), {"square": mask}, ("square",), None, "")
    assert item.masks is not None
    seen = np.asarray(item.picture)[..., 0] > 127
    assert (seen != item.masks[0].numpy().astype(bool)).mean() < 0.03
    assert 0.05 < item.masks.float().mean() < 0.3


def test_a_network_without_attention_is_watched_in_a_copy() -> None:
    plain = network("none")
    before = copy.deepcopy(plain.state_dict())
    looked = Classifier(plain, "cpu", who=identity("none"), groups=8)
    found = explain_data(looked, scenes(4), disturb=False, show=1)
    assert found.kind == "similarity"
    assert set(found.findings) == {"before", "gate"}
    assert found.score is found.scores.get("before")
    assert list(found.seen.surveys) == list(explain_data(subject(), scenes(4)).seen.surveys)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    assert not [m for m in plain.modules() if "NoAttention" in type(m).__name__]
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(plain(x), looked.network(x))


def test_other_attention_has_the_ratio() -> None:
    found = explain_data(subject("cbam"), scenes(4), disturb=False, show=1)
    assert found.kind == "ratio"
    assert found.score is not None or set(found.findings) == {"before", "gate", "after"}


def test_a_detector_is_looked_into_too() -> None:
    model: nn.Module = detector("faster_rcnn", attention="sge", groups=4)
    looked = Detector(model, "cpu")
    found = explain_data(looked, scenes(3), show=2)
    assert found.seen.images == 3
    assert not found.stability
    assert found.findings["gate"]
    assert model.training
    plain = explain_data(
        Detector(detector("retinanet"), "cpu", groups=4), scenes(2), maps=("after",)
    )
    assert plain.kind == "similarity"
    assert list(plain.seen.surveys) == list(found.seen.surveys)
    assert set(plain.findings) == {"after"}


def test_layers_are_chosen_and_unknown_ones_listed() -> None:
    looked = Classifier(network(), "cpu", layers=["layer2.0.se"])
    assert list(explain_data(looked, scenes(3), disturb=False).seen.surveys) == ["layer2.0.se"]
    with pytest.raises(InputError, match=r"no attention layer 'layer9'; there are layer1.0.se, "):
        Classifier(network(), "cpu", layers=["layer9"])


class Broken:
    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> Marked:
        if index % 2:
            raise InputError(f"{index} is no image")
        return Marked(Image.new("RGB", (40, 30)), None, {})

    def source(self, index: int) -> str:
        return str(index)


def test_bad_images_are_named_or_left_out() -> None:
    data = RegionData("broken", (), None, (), Broken())
    with pytest.raises(InputError, match="1 is no image"):
        explain_data(subject(), data)
    found = explain_data(subject(), data, skip_bad=True, show=6)
    assert found.seen.images == 3
    assert found.seen.skipped == ["1 is no image", "3 is no image", "5 is no image"]
    assert len(found.seen.shown) == 3
    late = explain_data(subject(), RegionData("", (), None, (), Late()), skip_bad=True, show=1)
    assert [shown.source for shown in late.seen.shown] == ["4"]  # the chosen third can't be read


class Late(Broken):
    def __getitem__(self, index: int) -> Marked:
        if index < 4:
            raise InputError("no image")
        return Marked(Image.new("RGB", (40, 30)), None, {})


def test_labels_that_the_network_does_not_know_are_left_out_one_by_one() -> None:
    data = scenes()
    some = RegionData(data.name, data.regions, data.whole, ("?", *data.classes[1:]), data.split)
    for size in (1, 7, 24):
        found = explain_data(subject(), some, disturb=False, batch_size=size)
        assert (found.seen.images, found.seen.labelled) == (24, 22)
        counts = found.seen.surveys["layer1.0.se"].class_images
        assert counts is not None
        assert counts.tolist() == [0.0] + [2.0] * 11
    assert "on the 22 of them whose class the network knows" in next(summary(found))


def test_batches_wait_for_no_more_than_two() -> None:
    made: list[int] = []

    def item(number: int) -> Item:
        made.append(number)
        return Item(torch.zeros(3, 2, 2), Image.new("RGB", (2, 2)), None, None, "")

    steps = batches(100, item, 10, None)
    assert next(steps)[0] == list(range(10))
    assert len(made) <= 30
    steps.close()


def test_large_maps_are_averaged() -> None:
    maps = torch.rand(1, 2, 56, 40)
    small = pooled(maps)
    assert small.shape == (1, 2, FINEST, 20)
    torch.testing.assert_close(small.mean((2, 3)), maps.mean((2, 3)))


def test_evenly_and_labels() -> None:
    assert evenly(10, 3) == [1, 4, 8]
    assert evenly(5, 5) == [0, 1, 2, 3, 4]
    assert labels_between(("b", "x"), ("a", "b")) == [1, None]


def test_sources(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / f"{number}.png")
    labelled = open_source([str(tmp_path / "data")], ("dog", "cat"))
    assert labelled.classes == ("cat", "dog")
    assert labelled.split[0].label is not None
    plain = open_source([str(tmp_path / "data")], ("fox", "owl"))
    assert len(plain.split) == 10
    assert plain.classes == ()
    files = open_source([str(tmp_path / "data" / "cat"), str(tmp_path / "data" / "dog" / "0.png")])
    assert len(files.split) == 6
    assert files.split.source(5).endswith("dog/0.png")
    with pytest.raises(InputError, match="no image or folder"):
        open_source([str(tmp_path / "nowhere")])
    trimaps = tmp_path / "pets"
    (trimaps / "trimaps").mkdir(parents=True)
    (trimaps / "annotations.json").write_text("{}")
    with pytest.raises(InputError, match=r"pets says where things are in its images; .* alone"):
        open_source([str(tmp_path / "data"), str(trimaps)])


@pytest.mark.parametrize("attention", ["sge", "se", "none"])
def test_many_images_run_through_a_folded_copy_and_find_the_same(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, folded = subject(attention), subject(attention)
    one = explain_data(plain, scenes(), disturb=False, show=2)
    monkeypatch.setattr("sgekit.explanation.subject._MANY", 24)
    other = explain_data(folded, scenes(), disturb=False, show=2)
    assert plain._runs is plain.network
    norms = [
        sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        for model in (folded.network, folded._runs)
    ]
    assert norms[0] > 0
    assert norms[1] == 0
    assert one.seen.correct == other.seen.correct
    assert list(one.seen.surveys) == list(other.seen.surveys)
    for mine, theirs in zip(one.seen.shown, other.seen.shown, strict=True):
        for layer, maps in mine.maps.items():
            for a, b in zip(maps, theirs.maps[layer], strict=True):
                torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_many_images_of_a_network_that_cannot_be_traced_run_through_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Picky(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if len(x) == 1:
                raise RuntimeError("takes no single images")
            logits: torch.Tensor = self.inner(x)
            return logits

    monkeypatch.setattr("sgekit.explanation.subject._MANY", 24)
    looked = Classifier(Picky(), "cpu", who=identity(), groups=8)
    assert explain_data(looked, scenes(), disturb=False, show=1).seen.images == 24
    assert looked._runs is looked.network
