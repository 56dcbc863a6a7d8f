import pytest
import torch
from PIL import Image

from sgekit.explanation.explained import explain_data
from sgekit.explanation.stability import _centre, _moved, _pasted, _pearson, stability
from sgekit.explanation.subject import Item
from tests.explanation.small import scenes, subject


def test_an_undisturbed_map_correlates_with_itself_and_a_constant_with_nothing() -> None:
    torch.manual_seed(0)
    maps = torch.rand(2, 3, 5, 5)
    maps[:, 2] = 0.7
    weight = torch.ones(2, 1, 5, 5)
    found = _pearson(maps, maps, weight)
    torch.testing.assert_close(found[:, :2], torch.ones(2, 2))
    assert found[:, 2].isnan().all()
    torch.testing.assert_close(_pearson(maps, 1 - maps, weight)[:, :2], -torch.ones(2, 2))


def test_positions_without_weight_do_not_count() -> None:
    one, other = torch.rand(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    other[..., :2, :] = one[..., :2, :]
    weight = torch.zeros(1, 1, 4, 4)
    weight[..., :2, :] = 1
    assert _pearson(one, other, weight).item() == pytest.approx(1, abs=1e-5)


def test_the_centre_is_enlarged() -> None:
    ramp = torch.linspace(-1, 1, 65)[1::2].expand(1, 1, 32, 32)
    torch.testing.assert_close(_centre(ramp, (32, 32)), ramp * 7 / 8, atol=1e-5, rtol=1e-5)


def test_a_look_alike_is_pasted_where_the_object_is_not() -> None:
    inputs = torch.stack([torch.zeros(3, 8, 8), torch.ones(3, 8, 8)])
    objects = torch.zeros(2, 1, 8, 8)
    objects[0, 0, :4, :4] = 1
    objects[1, 0, 2:6, 2:6] = 1
    pictures, valid = _pasted(inputs, objects, inputs.flip(0), objects.flip(0))
    assert valid is not None
    changed = (pictures[0] != 0).any(0)
    assert changed.sum() == 4  # the other's 4 x 4 object at half its size
    assert not bool((changed & (objects[0, 0] > 0)).any())
    assert torch.equal(valid[0, 0] == 0, changed)


def test_an_object_on_another_background() -> None:
    inputs = torch.stack([torch.zeros(3, 4, 4), torch.ones(3, 4, 4)])
    objects = torch.zeros(2, 1, 4, 4)
    objects[:, :, :2] = 1
    moved = _moved(inputs, objects, inputs.flip(0), objects.flip(0))
    assert moved[0, :, :2].eq(0).all()
    assert moved[0, :, 2:].eq(1).all()
    assert moved[1, :, 2:].eq(0).all()


def test_measured_on_scenes() -> None:
    found = {entry.name: entry for entry in explain_data(subject(), scenes()).stability}
    assert found["none"].accuracy is not None
    for name in ("noise", "crop", "look-alike", "background"):
        entry = found[name]
        assert entry.images == 24
        assert -1 <= entry.low <= entry.correlation <= entry.high <= 1
    assert found["noise"].correlation > found["background"].correlation
    assert found["look-alike"].pull is not None


def test_pictures_without_regions_have_noise_and_crops() -> None:
    looked = subject()

    def item(number: int) -> Item:
        torch.manual_seed(number)
        return Item(torch.randn(3, 32, 32), Image.new("RGB", (32, 32)), None, None, str(number))

    found = stability(looked, 3, item, None)
    assert [entry.name for entry in found] == ["none", "noise", "crop"]
    assert all(entry.accuracy is None for entry in found)


def test_no_batch_size_changes_what_is_measured() -> None:
    data, looked = scenes(5), subject()

    def item(number: int) -> Item:
        marked = data.split[number]
        return looked.item(marked.image, marked.masks, data.regions, marked.label, "")

    one, other = ({e.name: e for e in stability(looked, 5, item, 0, batch_size=n)} for n in (1, 3))
    assert list(one) == list(other) == ["none", "noise", "crop", "look-alike", "background"]
    assert one["none"].accuracy == other["none"].accuracy
    assert one["crop"].correlation == pytest.approx(other["crop"].correlation, abs=1e-4)
    assert one["background"].images == other["background"].images == 5
    assert all(-1 <= e.low <= e.high <= 1 for e in one.values() if e.name != "none")
