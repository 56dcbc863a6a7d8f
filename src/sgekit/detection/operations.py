"""How much arithmetic a detector does for one picture, part by part."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sgekit.detection.backbone import PyramidBackbone
from sgekit.detection.heads import ROI
from sgekit.models import Operations, count_operations

MASK_ROI = 14
"""Pixels a side of what RoIAlign gives the mask head."""


def count_detector(
    model: nn.Module,
    size: tuple[int, int] = (800, 1344),
    proposals: int = 1000,
    detections: int = 100,
) -> dict[str, Operations]:
    """The operations of one picture in evaluation, by part, each counted by `count_operations`.

    `size` is the height and width of the padded picture: 800x1333 is padded to a multiple of 32.
    "backbone" is the network with its pyramid. Of RetinaNet the rest is "heads"; of R-CNN it is
    "proposals" (the network that makes them), "boxes" for as many `proposals` and, where it has
    masks, "masks" for as many `detections`. A cascade runs five box heads: one for each of the
    first two stages, three on the last boxes. RoIAlign, decoding of boxes, non-maximum
    suppression and resizing of pictures and masks are not counted.
    """
    detector: Any = model
    backbone: PyramidBackbone = detector.backbone
    shapes = _shapes(backbone, size)
    found = {"backbone": count_operations(backbone, (backbone.spec.in_chans, *size))}
    if not hasattr(detector, "rpn"):
        found["heads"] = count_operations(_OnMaps(detector.head, shapes), (1, 1, 1, 1))
        return found
    heads = detector.roi_heads
    found["proposals"] = count_operations(_OnMaps(detector.rpn.head, shapes), (1, 1, 1, 1))
    runs = [nn.Sequential(heads.box_head, heads.box_predictor)]
    if isinstance(heads.box_head, nn.ModuleList):
        each = zip(heads.box_head, heads.box_predictor, strict=True)
        stages = [nn.Sequential(head, predictor) for head, predictor in each]
        runs = [*stages[:-1], *stages]
    channels = backbone.out_channels
    found["boxes"] = _sum([count_operations(run, (proposals, channels, ROI, ROI)) for run in runs])
    if detector.has_masks:
        run = nn.Sequential(heads.mask_head, heads.mask_predictor)
        found["masks"] = count_operations(run, (detections, channels, MASK_ROI, MASK_ROI))
    return found


def _sum(counts: list[Operations]) -> Operations:
    return Operations(
        sum(count.multiply_adds for count in counts),
        sum(count.other for count in counts),
        sum(count.attention for count in counts),
        tuple(sorted({name for count in counts for name in count.uncounted})),
    )


def _shapes(backbone: PyramidBackbone, size: tuple[int, int]) -> list[tuple[int, ...]]:
    """Of the pyramid's maps."""
    tensors = {
        name: tensor.to("meta")
        for name, tensor in [*backbone.named_parameters(), *backbone.named_buffers()]
    }
    image = torch.empty(1, backbone.spec.in_chans, *size, device="meta")
    with torch.no_grad():
        maps = functional_call(backbone, tensors, (image,))
    return [tuple(one.shape) for one in maps.values()]


class _OnMaps(nn.Module):
    """A head that takes a list of maps, run on maps of these shapes."""

    def __init__(self, head: nn.Module, shapes: list[tuple[int, ...]]) -> None:
        super().__init__()
        self.head = head
        self.shapes = shapes

    def forward(self, like: Tensor) -> Any:
        return self.head([like.new_empty(shape) for shape in self.shapes])
