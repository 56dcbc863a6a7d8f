import pytest
import torch
from PIL import Image
from torch import nn

from sgekit.analysis import capture, most_selective
from sgekit.detection.gates import detector_gate_examples
from sgekit.errors import InputError
from sgekit.modules import SpatialGroupEnhance
from tests.detection.small import detector

PICTURES = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
TITLES = ["first", "second"]


def with_gates(name: str = "faster_rcnn") -> nn.Module:
    """A detector whose gates differ between positions."""
    model: nn.Module = detector(name, attention="sge", groups=4)
    for index, layer in enumerate(m for m in model.modules() if isinstance(m, SpatialGroupEnhance)):
        nn.init.constant_(layer.weight, 0.2 + 0.1 * index)
    return model


def test_padding_is_cut_off_the_maps() -> None:
    model = with_gates()
    # Kept at 64 x 80 and 96 x 64, padded to 64 x 96 and 96 x 64: maps of stride 4 and 8.
    images = [torch.rand(3, 64, 80), torch.rand(3, 96, 64)]
    first, second = detector_gate_examples(model, images, PICTURES, TITLES, k=2)
    assert model.training
    assert (first.title, first.picture) == ("first", PICTURES[0])
    assert first.layer == second.layer
    assert first.layer.startswith("backbone.body.")
    with capture(model.eval(), [first.layer]) as records, torch.no_grad():
        model.backbone(model.transform([images[0]])[0].tensors)  # type: ignore[operator]
    whole = records[first.layer]
    stride = 96 // whole.gate.shape[3]
    assert whole.gate.shape[2:] == (64 // stride, 96 // stride)
    maps = first.maps[0]
    assert maps.gate.shape == maps.before.shape == maps.after.shape == (64 // stride, 80 // stride)
    assert second.maps[0].gate.shape == (96 // stride, 64 // stride)
    assert torch.equal(torch.from_numpy(maps.gate), whole.gate[0, maps.group, :, : 80 // stride])
    # Rows are few, so a layer of the first two stages it is: others' maps are below 8.
    assert stride in (4, 8)
    assert [m.group for m in first.maps] == [m.group for m in second.maps]


def test_groups_are_the_most_selective_where_there_is_picture() -> None:
    model = with_gates("retinanet")
    image = torch.rand(3, 64, 80)
    (example,) = detector_gate_examples(model, [image], PICTURES[:1], TITLES[:1])
    with capture(model.eval(), [example.layer]) as records, torch.no_grad():
        model.backbone(model.transform([image])[0].tensors)  # type: ignore[operator]
    gate = records[example.layer].gate
    seen = gate[..., : gate.shape[3] * 80 // 96]
    assert [m.group for m in example.maps] == most_selective(seen, 3)


def test_nothing_to_show() -> None:
    images = [torch.rand(3, 64, 80)] * 2
    assert detector_gate_examples(detector(), images, PICTURES, TITLES) == []
    assert detector_gate_examples(with_gates(), [], [], []) == []


def test_images_pictures_and_titles_belong_together() -> None:
    with pytest.raises(InputError, match="1 images, 2 pictures and 2 titles"):
        detector_gate_examples(with_gates(), [torch.rand(3, 64, 80)], PICTURES, TITLES)
    with pytest.raises(InputError, match="k = 0"):
        detector_gate_examples(with_gates(), [], [], [], k=0)
