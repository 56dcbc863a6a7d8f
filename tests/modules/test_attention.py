"""What holds for every attention mechanism."""

import subprocess
import sys

import pytest
import torch

from sgekit import modules
from sgekit.modules import ATTENTION, SpatialGroupEnhance

CHANNELS = 64
# By the papers' definitions: SE 2 C^2/r + C/r + C with C/r at least 8, ECA one kernel of 3,
# CBAM 2 C^2/r and a 7x7 convolution of 2 maps with its BatchNorm, SGE 2 G.
PARAMETERS = {
    "none": 0,
    "se": 2 * 64 * 8 + 8 + 64,
    "eca": 3,
    "cbam": 2 * 64 * 4 + 7 * 7 * 2 + 2,
    "sge": 2 * 64,
}


def test_names() -> None:
    assert list(ATTENTION) == list(PARAMETERS)
    assert ATTENTION["sge"] is SpatialGroupEnhance
    assert modules.ATTENTION is ATTENTION
    with pytest.raises(AttributeError, match="ATENTION"):
        modules.ATENTION  # noqa: B018


@pytest.mark.parametrize("name", PARAMETERS)
def test_every_mechanism(name: str) -> None:
    layer = ATTENTION[name](CHANNELS, device="cpu", dtype=torch.float64)
    assert sum(p.numel() for p in layer.parameters()) == PARAMETERS[name]
    assert all(p.dtype == torch.float64 for p in layer.parameters())
    x = torch.randn(2, CHANNELS, 5, 7, dtype=torch.float64, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.square().sum().backward()
    assert x.grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("name", PARAMETERS)
def test_unknown_keywords_are_refused(name: str) -> None:
    with pytest.raises(TypeError, match="typo"):
        ATTENTION[name](CHANNELS, typo=1)


def test_none_returns_its_input() -> None:
    x = torch.randn(1, 8, 2, 2)
    assert ATTENTION["none"](8)(x) is x


def test_the_layer_needs_torch_alone() -> None:
    code = (
        "import sys\n"
        "from sgekit.modules import SpatialGroupEnhance\n"
        "import torch\n"
        "SpatialGroupEnhance(8, groups=4)(torch.ones(1, 8, 2, 2))\n"
        "assert not {'timm', 'torchvision', 'torch._dynamo'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
