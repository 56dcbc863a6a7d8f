"""The five equations in float64, written from the paper and sharing no code with sgekit."""

from typing import NamedTuple

import torch
from torch import Tensor


def enhance(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float = 1e-5,
    normalize: bool = True,
    unbiased: bool = True,
) -> Tensor:
    """`(B, C, *spatial)` in, the same out, in float64; differentiable."""
    x = x.double()
    samples, channels, groups = x.shape[0], x.shape[1], weight.shape[0]
    features = x.reshape(samples, groups, channels // groups, -1)
    descriptor = features.mean(-1, keepdim=True)
    likeness = (features * descriptor).sum(2)
    # The deviation of one position is 0 / 0 and of none undefined; t is 0 there by definition.
    if not normalize:
        normalised = likeness
    elif likeness.shape[-1] > 1:
        centred = likeness - likeness.mean(-1, keepdim=True)
        std = likeness.std(-1, keepdim=True, correction=int(unbiased))
        normalised = centred / (std + eps)
    else:
        normalised = torch.zeros_like(likeness)
    score = weight.double()[:, None] * normalised + bias.double()[:, None]
    return (features * torch.sigmoid(score)[:, :, None]).reshape(x.shape)


class Error(NamedTuple):
    """How far a tensor is from the truth, relative to the truth's largest value and norm."""

    maximum: float
    rms: float


def error(actual: Tensor, expected: Tensor) -> Error:
    assert actual.shape == expected.shape
    expected = expected.detach()
    difference = actual.detach().double() - expected
    # Where the truth is 0 throughout the error is absolute.
    largest, norm = float(expected.abs().max()) or 1.0, float(expected.norm()) or 1.0
    return Error(float(difference.abs().max()) / largest, float(difference.norm()) / norm)
