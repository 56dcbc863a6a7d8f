"""Recording what every SGE layer receives and does, without touching the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.modules import SpatialGroupEnhance


@dataclass(frozen=True)
class GateRecord:
    """One SGE layer's last forward pass, detached, in float32; each (B, G, *spatial).

    ``before`` is the length of every group's vector at every position of the layer's input,
    ``gate`` the factor between 0 and 1, ``after`` the length in the layer's output.
    """

    before: Tensor
    gate: Tensor
    after: Tensor


@contextmanager
def capture(
    model: nn.Module, layers: Sequence[str] | None = None
) -> Iterator[dict[str, GateRecord]]:
    """Record the SGE layers of ``model`` during each forward pass inside the ``with`` block.

    Yields a dict, filled by the forward passes: layer name (as in ``named_modules``) to the record
    of the latest pass, in the order in which the layers ran. Layers whose map has one position only
    are left out: their gate is sigmoid(bias) whatever they see. ``layers`` restricts the recording.
    The network's outputs, gradients, mode and random state are unchanged; each recorded layer
    computes its gate a second time. The hooks are gone when the block ends, also by an exception.

    Raises `InputError` where a name in ``layers`` is not an SGE layer of ``model``. A model without
    SGE layers yields an empty dict.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, SpatialGroupEnhance)
    }
    if layers is not None:
        for name in layers:
            if name not in found:
                known = ", ".join(found) or "none"
                raise InputError(f"{name!r} is no SGE layer of this model; its SGE layers: {known}")
        found = {name: found[name] for name in layers}
    records: dict[str, GateRecord] = {}
    handles = [
        module.register_forward_hook(_recorder(name, records)) for name, module in found.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


def _recorder(name: str, records: dict[str, GateRecord]) -> Any:
    def hook(module: SpatialGroupEnhance, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        records.pop(name, None)  # the dict's order is that of the latest pass
        record = _record(module, inputs[0].detach())
        if record is not None:
            records[name] = record

    return hook


@torch.no_grad()
def _record(layer: SpatialGroupEnhance, x: Tensor) -> GateRecord | None:
    first = x if layer.channel_dim == 1 else x.movedim(layer.channel_dim, 1)
    spatial = first.shape[2:]
    if spatial.numel() <= 1:
        return None
    gate = layer.gate(x).float()
    grouped = first.reshape(first.shape[0], layer.groups, -1, *spatial)
    before = torch.linalg.vector_norm(grouped, dim=2, dtype=torch.float32)
    # The gate scales a group's whole vector, so its length scales alike; the layer's output itself
    # may already carry a residual and an activation.
    return GateRecord(before=before, gate=gate, after=before * gate)
