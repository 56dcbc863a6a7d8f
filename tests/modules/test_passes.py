import torch
from torch import Tensor

from sgekit.modules import ATTENTION
from tests.modules.passes import passes


def test_by_hand() -> None:
    x = torch.empty(2, 3, 4, 5, device="meta")

    def function(x: Tensor) -> Tensor:
        # Two read and one written; views; a copy; in place; one number of each channel.
        y = (x + x).transpose(2, 3).contiguous().relu_()
        return y * torch.ones(3, 1, 1, device="meta").expand(3, 5, 4)

    got = passes(function, x)
    assert got.read == 2 + 1 + 1 + (1 + 3 / x.numel())
    assert got.written == 1 + 1 + 1 + (3 / x.numel() + 1)


def test_squeeze_excite_reads_x_twice_and_writes_once() -> None:
    layer = ATTENTION["se"](64, device="meta").eval()
    got = passes(layer, torch.empty(8, 64, 56, 56, device="meta"))
    assert (round(got.read, 2), round(got.written, 2)) == (2, 1)
