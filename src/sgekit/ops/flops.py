"""How many operations the operation takes; importing this tells PyTorch's FLOP counter."""

import math
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from sgekit.ops import library  # noqa: F401  (defines what is registered here)


def operations(shape: tuple[int, ...], groups: int, channel_dim: int) -> int:
    """Elementary operations of one forward pass; each sum, product or function value is one.

    For each of the C * n numbers of a sample 5 (mean, centring, product and sum of the dot
    product, gate), for each of its G * n positions 8 (mean, centring, square, sum, division,
    weight, bias, sigmoid), for each channel 1 and for each group 4 (what their sums are
    divided by, root, eps).

    Without normalisation the operation is plain PyTorch: `count_operations` of the models
    sees 4 for each number (mean, product and sum of the dot product, gate), 3 for each
    position and 1 for each channel; PyTorch's own counter leaves such operations out.
    """
    samples, channels = shape[0], shape[channel_dim]
    n = math.prod(shape) // max(samples * channels, 1)
    return samples * (5 * channels * n + 8 * groups * n + channels + 4 * groups)


@register_flop_formula((torch.ops.sgekit.enhance, torch.ops.sgekit.enhance_))
def _forward_flops(
    x: Any, weight: Any, bias: Any, residual: Any, eps: float, channel_dim: int, *_: Any, **__: Any
) -> int:
    return operations(tuple(x), weight[0], channel_dim)


@register_flop_formula(torch.ops.sgekit.enhance_backward)
def _backward_flops(dy: Any, x: Any, weight: Any, bias: Any, g: Any, *_: Any, **__: Any) -> int:
    # As the formula in `derivatives` has them: 11 for each number of x, 16 for each position.
    numbers = math.prod(x)
    return int(11 * numbers + 16 * (numbers // g[2]))
