"""What holds for every attention mechanism."""

import subprocess
import sys

import pytest
import torch

from sgekit import modules
from sgekit.modules import ATTENTION, SpatialGroupEnhance

CHANNELS = 64
# By the papers' definitions, with C = 64. Hidden layers of C/r: 4 with r = 16, but 8 in SE
# (a multiple of 8) and in coordinate attention (at least 8), and 32 in SK (at least 32).
# Groups: 32 of 2 channels in SK, SA and EMA.
PARAMETERS = {
    "none": 0,
    "se": 2 * 64 * 8 + 8 + 64,
    "cbam": 2 * 64 * 4 + 7 * 7 * 2 + 2,
    # MLP and its norms; 1x1, twice 3x3, 1x1 and their norms.
    "bam": (2 * 64 * 4 + 2 * 4 + 2 * 64) + (64 * 4 + 2 * 9 * 4 * 4 + 4 + 3 * 2 * 4 + 2),
    # Two grouped 3x3 convolutions with norms; C to 32 with norm, 32 to 2 C.
    "sk": 2 * (9 * 64 * 2 + 2 * 64) + (64 * 32 + 2 * 32 + 32 * 128),
    "gc": (64 + 1) + (64 * 4 + 4) + 2 * 4 + (4 * 64 + 64),
    "ge": 3 * (9 * 64 + 2 * 64),
    "eca": 3,
    "srm": 2 * 64 + 2 * 64,
    "simam": 0,
    "coord": (64 * 8 + 8) + 2 * 8 + 2 * (8 * 64 + 64),
    "sa": 3 * 2,
    "triplet": 3 * (7 * 7 * 2 + 2),
    "ema": (2 * 2 + 2) + (9 * 2 * 2 + 2) + 2 * 2,
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


def test_sk_is_counted_with_its_convolutions() -> None:
    layer = ATTENTION["sk"](CHANNELS, groups=1)
    dense = PARAMETERS["sk"] + 2 * 9 * CHANNELS * (CHANNELS - 2)
    assert sum(p.numel() for p in layer.parameters()) == dense


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
