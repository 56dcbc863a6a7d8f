import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sgekit.analysis import capture, gate_examples, most_selective
from sgekit.errors import InputError
from sgekit.modules import SpatialGroupEnhance

PICTURES = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
TITLES = ["red", "blue"]


def net() -> nn.Sequential:
    """SGE on 16 x 16 (mild), 8 x 8 (stronger) and 4 x 4 (strongest) maps."""
    torch.manual_seed(0)
    layers = []
    for strength in (0.1, 1.0, 3.0):
        sge = SpatialGroupEnhance(8, groups=4)
        nn.init.constant_(sge.weight, strength)
        layers += [nn.LazyConv2d(8, 3, padding=1), nn.Dropout(0.5), sge, nn.MaxPool2d(2)]
    made = nn.Sequential(*layers)
    made(torch.zeros(1, 3, 16, 16))
    return made


def test_one_example_an_image_of_the_most_selective_layer_and_groups() -> None:
    model, inputs = net(), torch.randn(2, 3, 16, 16)
    found = gate_examples(model, inputs, PICTURES, TITLES, k=2)
    assert model.training
    # "10" is more selective still, but a 4 x 4 map shows little.
    assert [(e.title, e.layer, e.picture) for e in found] == [
        ("red", "6", PICTURES[0]),
        ("blue", "6", PICTURES[1]),
    ]
    model.eval()
    with capture(model) as records:
        model(inputs)
    groups = most_selective(records["6"].gate, 2)
    assert [[m.group for m in e.maps] for e in found] == [groups, groups]
    for name in ("before", "gate", "after"):
        expected = getattr(records["6"], name)[1, groups[0]].numpy()
        np.testing.assert_array_equal(getattr(found[1].maps[0], name), expected)


def test_a_layer_can_be_named() -> None:
    found = gate_examples(net(), torch.randn(2, 3, 16, 16), PICTURES, TITLES, layer="10")
    assert found[0].maps[0].gate.shape == (4, 4)
    assert len(found[0].maps) == 3


def test_small_maps_where_there_are_no_larger_ones() -> None:
    found = gate_examples(net(), torch.randn(2, 3, 8, 8), PICTURES, TITLES)
    assert found[0].layer == "2"
    found = gate_examples(net()[5:], torch.randn(2, 8, 4, 4), PICTURES, TITLES)
    assert (found[0].layer, found[0].maps[0].gate.shape) == ("10", (2, 2))


def test_modes_of_single_layers_survive_an_error() -> None:
    model = net()
    model[1].eval()
    with pytest.raises(RuntimeError):
        gate_examples(model, torch.randn(2, 5, 16, 16), PICTURES, TITLES)
    assert model.training
    assert not model[1].training
    assert model[5].training


def test_nothing_to_show() -> None:
    plain = nn.Conv2d(3, 3, 1)
    assert gate_examples(plain, torch.randn(2, 3, 8, 8), PICTURES, TITLES) == []
    assert gate_examples(net(), torch.randn(0, 3, 8, 8), [], []) == []


def test_inputs_pictures_and_titles_belong_together() -> None:
    with pytest.raises(InputError, match="2 inputs, 1 pictures and 2 titles"):
        gate_examples(net(), torch.randn(2, 3, 16, 16), PICTURES[:1], TITLES)
    with pytest.raises(InputError, match="k = 0"):
        gate_examples(net(), torch.randn(2, 3, 16, 16), PICTURES, TITLES, k=0)
