"""`create_detector`."""

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from sgekit.detection import heads
from sgekit.detection.backbone import STAGES, attend, attend_pyramid, pyramid_backbone
from sgekit.detection.load import load_detector
from sgekit.detection.norms import NORMS, Norm
from sgekit.detection.transform import PictureTransform
from sgekit.errors import InputError
from sgekit.models.insertion import synchronize_norms


@dataclass(frozen=True)
class Kind:
    """One of the detectors."""

    masks: bool = False
    cascade: bool = False
    dense: bool = False
    """One stage, without proposals."""


DETECTORS = {
    "faster_rcnn": Kind(),
    "mask_rcnn": Kind(masks=True),
    "cascade_rcnn": Kind(cascade=True),
    "cascade_mask_rcnn": Kind(masks=True, cascade=True),
    "retinanet": Kind(dense=True),
}

# What torchvision's constructors take and is decided here, or would be a module.
_OURS = {
    "self", "backbone", "num_classes", "min_size", "max_size", "kwargs", "head", "rpn_head",
    "box_head", "box_predictor", "mask_head", "mask_predictor", "box_roi_pool", "mask_roi_pool",
    "anchor_generator", "rpn_anchor_generator", "proposal_matcher",
}  # fmt: skip
# The cascade's stages have their own.
_OF_STAGES = {"box_fg_iou_thresh", "box_bg_iou_thresh", "bbox_reg_weights"}


def create_detector(
    name: str,
    backbone: str = "resnet50",
    num_classes: int = 80,
    *,
    attention: str = "none",
    groups: int | Literal["auto"] | None = None,
    fpn_attention: str | None = None,
    norm: Norm = "frozen",
    frozen_stages: int = 0,
    zero_init_last: bool = True,
    pretrained: bool = False,
    checkpoint: str | Path | None = None,
    min_size: int | Sequence[int] = 800,
    max_size: int = 1333,
    in_chans: int = 3,
    anchor_sizes: Sequence[float] = (32, 64, 128, 256, 512),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
    fpn_channels: int = 256,
    head_width: int = 1024,
    **options: Any,
) -> nn.Module:
    """A detector on a network of timm with a feature pyramid.

    `name` is one of DETECTORS. The detector is called as torchvision's are: in training with a
    list of pictures (in_chans, H, W) in 0..1 and a list of targets, a dict each of "boxes" (N, 4)
    as x0, y0, x1, y1 in pixels, "labels" (N,) from 1 to `num_classes` and, where it has masks,
    "masks" (N, H, W); it returns a dict of losses, whose sum is to be made small. In evaluation
    it takes the pictures alone and returns a dict each, with "scores" and with masks (N, 1, H, W)
    as probabilities.

    `attention` stands at the end of every residual block, as `sgekit.models.build` puts it there;
    a backbone "sge_resnet50" is "resnet50" with "sge". `fpn_attention` puts a layer behind every
    convolution that makes a map of the pyramid. `norm` is the backbone's: "frozen" BatchNorm
    (statistics are kept, weight and bias train), "batch", "sync" (over processes), or "group" in
    place of BatchNorm and in the pyramid and heads too. `frozen_stages` freezes that many of stem
    and four stages with all that is in them. `zero_init_last` starts the last BatchNorm of a
    residual block at 0, as timm does, in families that can start so; it matters where no weights
    are loaded. `pretrained` loads timm's weights of the backbone,
    `checkpoint` a classification checkpoint into the backbone or a detector's file into all
    (`sgekit.detection.load_detector`); attention that these lack starts so that the function is
    preserved, where it can.

    Pictures are resized so that the shorter side has `min_size` (in training one of several, if
    so given; in evaluation the last) and the longer at most `max_size`. `anchor_sizes` are those
    of the pyramid's five maps. `fpn_channels` are those of every map of the pyramid and of the
    convolutions of the heads, `head_width` the numbers in the box heads' hidden layers (RetinaNet
    has none): the papers' by default, less for small pictures and few cores. Other options are
    torchvision's, such as `box_score_thresh`.

    Two networks of the same random seed share what they have in common, whatever the attention.
    Attributes: `detector_name`, `num_classes`, `has_masks`, and `loaded`, which says what came
    from `checkpoint`, or is None.

    Raises InputError for unknown names and options, settings that make no sense, and whatever
    `build` and the checkpoint raise it for.
    """
    kind = kind_of(name)
    _check(num_classes, norm, frozen_stages, in_chans, min_size, max_size, pretrained, checkpoint)
    _check_anchors(anchor_sizes, aspect_ratios)
    _check_widths(fpn_channels, head_width)
    _check_options(name, kind, options)
    body = pyramid_backbone(
        backbone,
        levels=3 if kind.dense else 4,
        attention=attention,
        groups=groups,
        norm=norm,
        pretrained=pretrained,
        in_chans=in_chans,
        fpn_channels=fpn_channels,
        zero_init_last=zero_init_last,
    )
    mean, std = body.mean_and_std()
    settings = {
        "min_size": min_size if isinstance(min_size, int) else tuple(min_size),
        "max_size": max_size,
        "image_mean": mean,
        "image_std": std,
    } | options
    boxes = heads.anchors(anchor_sizes, aspect_ratios, scales=3 if kind.dense else 1)
    make: Callable[..., nn.Module] = heads.retinanet
    extra: dict[str, Any] = {}
    if not kind.dense:
        extra = {"masks": kind.masks, "cascade": kind.cascade, "width": head_width}
        make = heads.rcnn
    model: Any = make(body, num_classes, boxes, settings, normed=norm == "group", **extra)
    # The same settings; torchvision's class makes its own.
    model.transform.__class__ = PictureTransform
    # Last, so that what it draws at random changes nothing else.
    attend(body, preserve=pretrained)
    if fpn_attention is not None:
        attend_pyramid(body, fpn_attention)
    if norm == "sync":
        synchronize_norms(body)
    body.freeze(frozen_stages)
    model.detector_name, model.num_classes, model.has_masks = name, num_classes, kind.masks
    model.loaded = None if checkpoint is None else load_detector(model, checkpoint)
    return model.train()  # type: ignore[no-any-return]


def kind_of(name: str) -> Kind:
    if not isinstance(name, str) or name not in DETECTORS:
        near = difflib.get_close_matches(str(name), DETECTORS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise InputError(f"no detector is named {name!r}; {hint}allowed: {', '.join(DETECTORS)}")
    return DETECTORS[name]


def _check(
    num_classes: int,
    norm: str,
    frozen_stages: int,
    in_chans: int,
    min_size: int | Sequence[int],
    max_size: int,
    pretrained: bool,
    checkpoint: str | Path | None,
) -> None:
    sizes = list(min_size) if isinstance(min_size, Sequence) else [min_size]
    named: dict[str, list[Any]] = {"num_classes": [num_classes], "in_chans": [in_chans]}
    for option, values in (named | {"min_size": sizes, "max_size": [max_size]}).items():
        for value in values or ["nothing"]:
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                counted = " (of objects; background is not counted)" * (option == "num_classes")
                raise InputError(f"{option} must be a whole number above 0{counted}, not {value!r}")
    if max_size < max(sizes):
        raise InputError(f"max_size {max_size} is less than min_size {max(sizes)}; raise it")
    if norm not in NORMS:
        raise InputError(f"norm must be one of {', '.join(NORMS)}, not {norm!r}")
    whole = isinstance(frozen_stages, int) and not isinstance(frozen_stages, bool)
    if not whole or not 0 <= frozen_stages <= STAGES:
        raise InputError(
            f"frozen_stages must be 0 (none), 1 (the stem) to {STAGES} (all), not {frozen_stages!r}"
        )
    if pretrained and checkpoint is not None:
        raise InputError(
            f"pretrained weights and the checkpoint {checkpoint} are both for the backbone; "
            "give one of the two"
        )


def _check_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> None:
    for option, values in (("anchor_sizes", sizes), ("aspect_ratios", ratios)):
        if not values or any(not value > 0 for value in values):
            raise InputError(f"{option} must be numbers above 0, not {tuple(values)}")
    if len(sizes) != 5:
        raise InputError(
            f"anchor_sizes must be 5, one for each map of the pyramid, not {len(sizes)}"
        )


def _check_widths(fpn_channels: int, head_width: int) -> None:
    for option, value in (("fpn_channels", fpn_channels), ("head_width", head_width)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise InputError(f"{option} must be a whole number above 0, not {value!r}")


def _check_options(name: str, kind: Kind, options: dict[str, Any]) -> None:
    # torchvision passes what it does not know on to its transform, which passes over it.
    known = {
        parameter
        for cls in (RetinaNet if kind.dense else MaskRCNN, GeneralizedRCNNTransform)
        for parameter in inspect.signature(cls).parameters
    } - _OURS
    allowed = sorted(known - (_OF_STAGES if kind.cascade else set()) | {"_skip_resize"})
    for option in options:
        if option not in allowed:
            near = difflib.get_close_matches(option, allowed, n=2)
            hint = f"did you mean {' or '.join(near)}? " if near else ""
            raise InputError(
                f"{name} has no option {option!r}; {hint}allowed: {', '.join(allowed)}"
            )
