"""The detectors themselves: torchvision's, and the cascade on torchvision's."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torchvision.models.detection import FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import (
    FastRCNNConvFCHead,
    FastRCNNPredictor,
    TwoMLPHead,
)
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead

from sgekit.detection.backbone import PyramidBackbone
from sgekit.detection.cascade import STAGES, CascadeRoIHeads, ClassAgnosticPredictor
from sgekit.detection.norms import group_norm

ROI = 7
"""Pixels a side of what RoIAlign gives the box heads."""


def rcnn(
    backbone: PyramidBackbone,
    num_classes: int,
    anchors: AnchorGenerator,
    options: dict[str, Any],
    *,
    masks: bool,
    cascade: bool,
    normed: bool,
    width: int,
) -> nn.Module:
    """Faster, Mask or Cascade R-CNN. `normed`: GroupNorm in the heads, and four convolutions and
    one linear layer for boxes in place of two linear ones (arXiv 1803.08494, section 4.2).
    `width` is that of the box heads' hidden layers; the convolutions have the pyramid's."""
    channels = backbone.out_channels
    # Without a number torchvision's class makes no predictor of its own.
    given: dict[str, Any] = {"num_classes": None, "rpn_anchor_generator": anchors}
    if cascade:
        given["box_head"] = nn.ModuleList(_box_head(channels, width, normed) for _ in STAGES)
        given["box_predictor"] = nn.ModuleList(
            ClassAgnosticPredictor(width, num_classes) for _ in STAGES
        )
    else:
        given["box_head"] = _box_head(channels, width, normed)
        given["box_predictor"] = FastRCNNPredictor(width, num_classes + 1)
    if masks:
        layers, norm = (channels,) * 4, group_norm if normed else None
        given["mask_head"] = MaskRCNNHeads(channels, layers, 1, norm_layer=norm)
        given["mask_predictor"] = MaskRCNNPredictor(channels, channels, num_classes + 1)
    cls = MaskRCNN if masks else FasterRCNN
    model: Any = cls(backbone, **given, **options)
    if cascade:
        model.roi_heads = CascadeRoIHeads(model.roi_heads)
    for head in (model.rpn.head, model.roi_heads.box_predictor, model.roi_heads.mask_predictor):
        for module in head if isinstance(head, nn.ModuleList) else [head]:
            if module is not None:
                module.register_forward_hook(in_full_precision)
    return model  # type: ignore[no-any-return]


def retinanet(
    backbone: PyramidBackbone,
    num_classes: int,
    anchors: AnchorGenerator,
    options: dict[str, Any],
    *,
    normed: bool,
) -> nn.Module:
    """RetinaNet. `normed`: GroupNorm in the two towers."""
    head = RetinaNetHead(
        backbone.out_channels,
        anchors.num_anchors_per_location()[0],
        num_classes + 1,
        norm_layer=group_norm if normed else None,
    )
    head.register_forward_hook(in_full_precision)
    head.register_forward_hook(_without_background)
    model: nn.Module = RetinaNet(
        backbone, num_classes + 1, anchor_generator=anchors, head=head, **options
    )
    return model


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's, in float32 under autocast, where the maps have fewer digits."""

    def forward(self, image_list: ImageList, feature_maps: list[Tensor]) -> list[Tensor]:
        boxes: list[Tensor] = super().forward(image_list, [_widened_shape(m) for m in feature_maps])
        return boxes


def anchors(sizes: Sequence[float], ratios: Sequence[float], *, scales: int) -> AnchorGenerator:
    """Anchors of one size a level, or of `scales` sizes a third of an octave apart.

    RetinaNet's are rounded down to whole pixels, as torchvision's.
    """
    steps = [2 ** (step / scales) for step in range(1, scales)]
    every = tuple((size, *(int(size * step) for step in steps)) for size in sizes)
    return Anchors(every, (tuple(ratios),) * len(every))


def in_full_precision(module: nn.Module, inputs: Any, out: Any) -> Any:
    """A hook: what a head says of boxes in float32 under autocast.

    Boxes are decoded in the type of the deltas. In bfloat16 a coordinate above 1024 is known to
    8 pixels, in float16 to one.
    """
    return tree_map(_widened, out)


def _without_background(head: nn.Module, inputs: Any, out: dict[str, Tensor]) -> None:
    """A hook: torchvision's RetinaNet scores class 0 too, which no object has."""
    if not head.training:
        out["cls_logits"][..., 0] = -torch.inf


def _widened(value: Any) -> Any:
    # A network in half precision throughout has its features and boxes in one type.
    return value.float() if isinstance(value, Tensor) and _is_narrowed(value) else value


def _widened_shape(feature_map: Tensor) -> Tensor:
    """Of a map's shape and device, in float32 under autocast; its numbers are not looked at."""
    if not _is_narrowed(feature_map):
        return feature_map
    return feature_map.new_empty((), dtype=torch.float32).expand(feature_map.shape)


def _is_narrowed(value: Tensor) -> bool:
    half = value.dtype in (torch.float16, torch.bfloat16)
    return half and torch.is_autocast_enabled(value.device.type)


def _box_head(channels: int, width: int, normed: bool) -> Any:
    if not normed:
        return TwoMLPHead(channels * ROI**2, width)
    shape = (channels, ROI, ROI)
    return FastRCNNConvFCHead(shape, [channels] * 4, [width], norm_layer=group_norm)
