"""Networks given whole, with heads and inputs that are no blocks and no batches."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.models import insert


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class TwoHeads(nn.Module):
    """Two classifiers on maps of two sizes, added: one looks like the other's shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.down = nn.Conv2d(3, 8, 3), Block(), nn.Conv2d(8, 8, 3, 2, 1)
        self.low, self.high = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.block(self.stem(x))
        coarse = F.interpolate(self.high(self.down(fine)), size=fine.shape[2:], mode="bilinear")
        out: Tensor = self.low(fine) + coarse
        return out


class TakesAList(nn.Module):
    """A list of pictures without a batch, as torchvision's detectors take."""

    def __init__(self) -> None:
        super().__init__()
        self.net = TwoHeads()

    def forward(self, images: list[Tensor]) -> Tensor:
        out: Tensor = self.net(torch.stack(images))
        return out


def test_added_heads_are_no_residual_block() -> None:
    model = TwoHeads()
    assert insert(model, "sge", groups=4) == ["block.bn2.attention"]


def test_pictures_without_a_batch() -> None:
    model = TakesAList()
    pictures = [torch.rand(3, 32, 32), torch.rand(3, 32, 32)]
    names = insert(model, "sge", groups=4, example_inputs=(pictures,))
    assert names == ["net.block.bn2.attention"]


def test_a_forward_set_on_the_module_is_refused() -> None:
    model = TwoHeads()
    plain = model.block.bn2.forward
    model.block.bn2.forward = lambda x: plain(x).tanh()  # type: ignore[method-assign,assignment]
    with pytest.raises(InputError, match=r"'block.bn2' .*forward set on the module itself"):
        insert(model, "sge", groups=4)


def test_a_network_without_numbers_is_told() -> None:
    with torch.device("meta"):
        model = TwoHeads()
    with pytest.warns(UserWarning, match="meta device and has no weights to rescale"):
        insert(model, "sge", groups=4)
