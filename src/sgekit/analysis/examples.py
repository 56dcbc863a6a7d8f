"""Example images with the gates of the most selective groups, ready to be drawn."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sgekit.analysis.capture import GateRecord, capture, evaluating
from sgekit.analysis.selectivity import most_selective, selectivity
from sgekit.errors import InputError

# A coarser map shows where a group looks hardly better than a word would.
_SMALLEST_MAP = 7


@dataclass(frozen=True)
class GateMap:
    """One group on one image: vector lengths before and after, and the gate; each (H, W)."""

    group: int
    before: NDArray[np.float32]
    gate: NDArray[np.float32]
    after: NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """One picture, what to write under it, and maps of some groups of one layer."""

    picture: Image.Image
    title: str
    layer: str
    maps: tuple[GateMap, ...]


def gate_examples(
    model: nn.Module,
    inputs: Tensor,
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    *,
    layer: str | None = None,
    k: int = 3,
) -> list[Example]:
    """Run ``inputs`` (B, 3, H, W), as the model takes them; keep the ``k`` most selective groups.

    The groups are chosen over all the images together. ``layer`` None takes the layer whose ``k``
    groups are the most selective among those with a map of at least 7 x 7 (among all, where none
    has one). Runs in eval mode without gradients; the model's mode is restored. Empty for a model
    without SGE layers. Titles are text that a reader sees beside the picture.

    Raises `InputError` where pictures or titles are not one an input, where ``layer`` is not an SGE
    layer, and where ``k`` < 1.
    """
    if not len(inputs) == len(pictures) == len(titles):
        raise InputError(
            f"{len(inputs)} inputs, {len(pictures)} pictures and {len(titles)} titles: "
            "each input needs one of both"
        )
    if len(inputs) == 0:
        return []
    with (
        evaluating(model),
        torch.no_grad(),
        capture(model, None if layer is None else [layer]) as records,
    ):
        model(inputs)
    maps = {name: record for name, record in records.items() if record.gate.dim() == 4}
    if not maps:
        return []
    name = _choose(maps, k)
    record = maps[name]
    groups = most_selective(record.gate, k)
    return [
        Example(picture, title, name, tuple(_map(record, index, group) for group in groups))
        for index, (picture, title) in enumerate(zip(pictures, titles, strict=True))
    ]


def _choose(records: dict[str, GateRecord], k: int) -> str:
    large = [n for n, r in records.items() if min(r.gate.shape[2:]) >= _SMALLEST_MAP]

    def score(name: str) -> float:
        values = selectivity(records[name].gate)
        return float(values.topk(min(k, len(values))).values.mean())

    return max(large or list(records), key=score)


def _map(record: GateRecord, index: int, group: int) -> GateMap:
    before, gate, after = (
        np.asarray(tensor[index, group].cpu().numpy(), dtype=np.float32)
        for tensor in (record.before, record.gate, record.after)
    )
    return GateMap(group, before, gate, after)
