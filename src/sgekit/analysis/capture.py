"""Recording what every attention layer receives and does, without touching the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sgekit.analysis.maps import group_lengths, lengths_and_gate
from sgekit.errors import InputError
from sgekit.modules import ATTENTION, NoAttention, SpatialGroupEnhance, resolve_groups
from sgekit.modules.groups import LEAST_CHANNELS

Kind = Literal["gate", "similarity", "ratio"]
# Its groups' lengths can't be compared: it leaves the channels in another order.
_SHUFFLES = "sa"


@dataclass(frozen=True)
class GateRecord:
    """One layer's last forward pass, detached, in float32; each (B, G, *spatial).

    ``before`` is the length of every group's vector at every position of the layer's input,
    ``gate`` the factor it is given there, ``after`` the length in the layer's output. ``kind``
    says what the factor is: "gate", of SGE, between 0 and 1; "ratio", of another attention, the
    length after by that before (1 where both are 0); "similarity", where there is no attention,
    the gate that SGE with weight 1 and bias 0 would have, while ``after`` is ``before``.
    """

    before: Tensor
    gate: Tensor
    after: Tensor
    kind: Kind = "gate"


@contextmanager
def capture(
    model: nn.Module,
    layers: Sequence[str] | None = None,
    *,
    attention: Literal["sge", "all"] = "sge",
    groups: int | Literal["auto"] = "auto",
) -> Iterator[dict[str, GateRecord]]:
    """Record the SGE layers of ``model`` during each forward pass inside the ``with`` block.

    Yields a dict, filled by the forward passes: layer name (as in ``named_modules``) to the record
    of the latest pass, in the order in which the layers ran. Layers whose map has one position only
    are left out: their gate is sigmoid(bias) whatever they see. ``layers`` restricts the recording.
    ``attention="all"`` records every layer of `ATTENTION`, whose channels are then taken in
    ``groups`` ("auto": as SGE does; one group where they don't divide, and of "sa",
    which shuffles the channels). That includes `NoAttention`, which may stand at the places of a
    network without attention and leaves what it computes as it is. Layers with other channels out
    than in are left out.

    The network's mode and random state are unchanged, its outputs and gradients too, but for
    rounding where a block would have run as one fused operation. Each recorded layer computes its
    gate a second time. The hooks are gone when the block ends, also by an exception.

    Raises `InputError` where a name in ``layers`` is not such a layer of ``model``. A model without
    any yields an empty dict.
    """
    found = watched(model, attention)
    if layers is not None:
        for name in layers:
            if name not in found:
                kind = "SGE" if attention == "sge" else "attention"
                known = ", ".join(found) or "none"
                raise InputError(
                    f"{name!r} is no {kind} layer of this model; its {kind} layers: {known}"
                )
        found = {name: found[name] for name in layers}
    records: dict[str, GateRecord] = {}
    handles = [
        module.register_forward_hook(_recorder(name, records, groups), with_kwargs=True)
        for name, module in found.items()
    ]
    try:
        yield records
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """In eval mode inside the ``with`` block; every module's own mode is restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def watched(model: nn.Module, attention: Literal["sge", "all"] = "sge") -> dict[str, nn.Module]:
    """The layers that `capture` records, by name."""
    kinds = (SpatialGroupEnhance,) if attention == "sge" else tuple(ATTENTION.values())
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _recorder(name: str, records: dict[str, GateRecord], groups: int | Literal["auto"]) -> Any:
    def hook(
        module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor
    ) -> None:
        records.pop(name, None)  # the dict's order is that of the latest pass
        x = inputs[0] if inputs else next(iter(named.values()))
        record = _record(module, x.detach(), output.detach(), groups)
        if record is not None:
            records[name] = record

    return hook


@torch.no_grad()
def _record(
    layer: nn.Module, x: Tensor, y: Tensor, groups: int | Literal["auto"]
) -> GateRecord | None:
    dim = getattr(layer, "channel_dim", 1)
    first = x if dim == 1 else x.movedim(dim, 1)
    if first.dim() < 3 or first.shape[2:].numel() <= 1 or first.numel() == 0:
        return None
    if isinstance(layer, SpatialGroupEnhance):
        before, gate = lengths_and_gate(first, layer)
        # The gate scales a group's whole vector, so its length scales alike; the layer's output
        # itself may already carry a residual and an activation.
        return GateRecord(before, gate, before * gate)
    count = _count(layer, first.shape[1], groups)
    if isinstance(layer, NoAttention):
        plain = SpatialGroupEnhance(
            first.shape[1], count, weight_init=1.0, bias_init=0.0, device=x.device
        )
        before, gate = lengths_and_gate(first, plain)
        return GateRecord(before, gate, before, "similarity")
    before = group_lengths(first, count)
    if y.shape != first.shape:
        return None
    after = group_lengths(y, count)
    ratio = torch.where(before > 0, after / before.clamp_min(1e-30), 1.0)
    return GateRecord(before, ratio, after, "ratio")


def _count(layer: nn.Module, channels: int, groups: int | Literal["auto"]) -> int:
    if isinstance(layer, ATTENTION[_SHUFFLES]):
        return 1
    try:
        return resolve_groups(channels, groups, least=LEAST_CHANNELS)
    except InputError:
        return 1
