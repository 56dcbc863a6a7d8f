"""Global Context block as a layer."""

from typing import ClassVar

import torch
from timm.layers import global_context

from sgekit.modules.widths import hidden_channels, zero

LEAST_HIDDEN = 4


class GlobalContext(global_context.GlobalContext):
    """Adds to every position one vector made of the positions that matter.

    From "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", arXiv
    1904.11492, section 3.4, equation 5: x + W2 relu(LN(W1 sum_j softmax_j(Wk x_j) x_j)), W1
    from C to C/r channels and W2 back; r = 16. timm's layer in its adding form.

    W2 and its bias start at 0, as in the code of the paper's authors, so that a fresh layer
    returns its input. W1 has at least 4 outputs: of one number LayerNorm would leave nothing.

    Takes and returns `(B, channels, H, W)`.
    """

    dims: ClassVar[tuple[int, ...] | None] = (2,)

    def __init__(
        self,
        channels: int,
        *,
        reduction: int = 16,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            channels,
            fuse_add=True,
            fuse_scale=False,
            rd_channels=hidden_channels(channels, reduction, LEAST_HIDDEN),
            device=device,
            dtype=dtype,
        )

    def reset_parameters(self) -> None:
        """W2 at 0; timm's, which draws Wk anew, leaves its bias out."""
        super().reset_parameters()  # type: ignore[no-untyped-call]
        zero(self.mlp_add.fc2)

    def neutralize(self) -> float:
        """Make what is added 0, whatever the input, and return 1."""
        zero(self.mlp_add.fc2)
        return 1.0
