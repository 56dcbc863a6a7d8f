"""What SGE's gates in a detector look at, on pictures of any size."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sgekit.analysis import Example, GateMap, GateRecord, capture, selectivity
from sgekit.analysis.capture import evaluating
from sgekit.errors import InputError

# A coarser map shows where a group looks hardly better than a word would.
_SMALLEST_MAP = 8


def detector_gate_examples(
    detector: nn.Module,
    images: Sequence[Tensor],
    pictures: Sequence[Image.Image],
    titles: Sequence[str],
    *,
    k: int = 3,
) -> list[Example]:
    """The ``k`` most selective groups of one layer on every image, as `analysis.gate_examples`.

    ``images`` are (3, H, W) between 0 and 1, as the detector takes them, on its device; they may
    differ in size and are run one by one, resized as the detector does it. What it pads is cut off
    the maps. The layer is that whose ``k`` groups are the most selective over all the images, among
    those with maps of at least 8 x 8 (among all, where none has). Heads hold no SGE and are not
    run. The modes of the detector are restored. Empty for a detector without SGE layers.

    Raises `InputError` where pictures or titles are not one an image, and where ``k`` < 1.
    """
    if not len(images) == len(pictures) == len(titles):
        raise InputError(
            f"{len(images)} images, {len(pictures)} pictures and {len(titles)} titles: "
            "each image needs one of both"
        )
    if k < 1:
        raise InputError(f"k = {k} groups cannot be chosen: ask for at least 1")
    with evaluating(detector), torch.no_grad():
        # Twice through the backbone: the maps of all the layers would fill the memory.
        layer, groups = _choose(detector, images, k)
        if layer is None:
            return []
        records = [detector_records(detector, image, [layer])[layer] for image in images]
    return [
        Example(picture, title, layer, tuple(_map(record, group) for group in groups))
        for record, picture, title in zip(records, pictures, titles, strict=True)
    ]


def _choose(detector: nn.Module, images: Sequence[Tensor], k: int) -> tuple[str | None, list[int]]:
    """The layer and its groups, the most selective first; None where no layer has a map."""
    found: dict[str, list[Tensor]] = defaultdict(list)
    side: dict[str, int] = {}
    for image in images:
        for name, record in detector_records(detector, image).items():
            found[name].append(selectivity(record.gate))
            side[name] = min(side.get(name, _SMALLEST_MAP), *record.gate.shape[2:])
    # A layer whose map has one position on some image has no record of it.
    mean = {n: torch.stack(v).mean(0) for n, v in found.items() if len(v) == len(images)}
    if not mean:
        return None, []
    large = [name for name in mean if side[name] >= _SMALLEST_MAP]

    def score(name: str) -> float:
        return float(mean[name].topk(min(k, len(mean[name]))).values.mean())

    layer = max(large or list(mean), key=score)
    order = torch.sort(mean[layer], descending=True, stable=True).indices
    return layer, [int(group) for group in order[:k]]


def detector_records(
    detector: Any,
    image: Tensor,
    layers: Sequence[str] | None = None,
    groups: int | Literal["auto"] | None = None,
) -> dict[str, GateRecord]:
    """The records (1, G, H, W) of one image's maps, without padding.

    ``image`` (3, H, W) between 0 and 1, on the detector's device; the detector is in eval mode.
    Of SGE layers alone, or with ``groups`` of every attention layer, as `capture` takes them.
    """
    batch, _ = detector.transform([image])
    watch = (
        capture(detector, layers)
        if groups is None
        else capture(detector, layers, attention="all", groups=groups)
    )
    with watch as records:
        detector.backbone(batch.tensors)
    # Of a position that is picture in part, the larger part decides.
    share = [
        inner / outer
        for inner, outer in zip(batch.image_sizes[0], batch.tensors.shape[-2:], strict=True)
    ]
    return {name: _cut(r, share) for name, r in records.items() if r.gate.dim() == 4}


def _cut(record: GateRecord, share: Sequence[float]) -> GateRecord:
    height, width = (
        max(1, round(size * part)) for size, part in zip(record.gate.shape[2:], share, strict=True)
    )
    before, gate, after = (
        values[..., :height, :width] for values in (record.before, record.gate, record.after)
    )
    return GateRecord(before, gate, after, record.kind)


def _map(record: GateRecord, group: int) -> GateMap:
    before, gate, after = (
        _array(values[0, group]) for values in (record.before, record.gate, record.after)
    )
    return GateMap(group, before, gate, after)


def _array(values: Tensor) -> NDArray[np.float32]:
    return np.asarray(values.cpu().numpy(), dtype=np.float32)
