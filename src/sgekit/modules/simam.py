"""SimAM as a layer."""

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from sgekit.errors import InputError


class SimAM(nn.Module):
    """Scales every number by how far it is from its channel's mean; no parameters.

    From "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks",
    ICML 2021, PMLR 139, pages 11863-11874, section 3.2: x * sigmoid(1 / e), e the energy of
    equation 5, so that 1 / e = (x - mean)^2 / (4 (var + lambda)) + 1/2. lambda = 1e-4, and var
    over n - 1 as in the paper's code (figure 3). `regularization` is lambda.

    Takes and returns `(B, channels, *spatial)` with 1 to 3 spatial dimensions. Statistics are
    taken in float32 for half-precision x. A map of one position has the gate sigmoid(1/2).
    """

    dims: ClassVar[tuple[int, ...] | None] = (1, 2, 3)

    def __init__(
        self,
        channels: int,
        *,
        regularization: float = 1e-4,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not regularization > 0:
            raise InputError(f"regularization must be above 0, not {regularization}")
        self.channels = channels
        self.regularization = regularization

    def forward(self, x: Tensor) -> Tensor:
        positions = tuple(range(2, x.dim()))
        # Not max(): the size may be symbolic, and max() would fix its value.
        freedom = cast(int, torch.sym_max(math.prod(x.shape[2:]) - 1, 1))
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        square = (wide - wide.mean(positions, keepdim=True)).square()
        var = square.sum(positions, keepdim=True) / freedom
        gate = torch.sigmoid(square / (4 * (var + self.regularization)) + 0.5)
        return x * gate.to(x.dtype)

    def neutralize(self) -> float:
        """Raises InputError: there is no parameter to set."""
        raise InputError(
            "simam has no parameters, so it can't leave a trained network's function as it is; "
            "insert it with preserve=False and train"
        )

    def extra_repr(self) -> str:
        return f"{self.channels}, regularization={self.regularization}"
