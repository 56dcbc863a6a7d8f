"""Layers and inputs for the tests of the attention mechanisms."""

from typing import Any

import torch
from torch import Tensor, nn

from sgekit.modules import ATTENTION

FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}


def trained(name: str, channels: int, dtype: torch.dtype = torch.float64, **options: Any) -> Any:
    """A layer with the parameters and running statistics of no particular start."""
    torch.manual_seed(0)
    layer: Any = ATTENTION[name](channels, dtype=dtype, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            spread = 0.7 / max(parameter[0].numel(), 1) ** 0.5
            parameter.copy_(torch.randn_like(parameter) * spread + 0.3 * (parameter.dim() == 1))
        for key, value in layer.named_buffers():
            if key.endswith("running_var"):
                value.copy_(torch.rand_like(value) + 0.5)
            elif key.endswith("running_mean"):
                value.copy_(torch.randn_like(value) / 3)
    return layer


def state_of(layer: nn.Module, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Its parameters as leaves, and its running statistics."""
    state = {
        name: parameter.detach().to(dtype).requires_grad_()
        for name, parameter in layer.named_parameters()
    }
    return state | {name: b.to(dtype) for name, b in layer.named_buffers() if b.is_floating_point()}


def maps(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    """Maps whose channels have means and deviations of their own."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.rand(1, shape[1], 1, 1, generator=generator) + 0.5
    mean = torch.randn(1, shape[1], 1, 1, generator=generator)
    return (torch.randn(shape, generator=generator) * spread + mean).to(dtype)


def relative_rms(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    error = (got - expected).square().mean().sqrt()
    return float(error / expected.square().mean().sqrt().clamp(min=1e-30))
