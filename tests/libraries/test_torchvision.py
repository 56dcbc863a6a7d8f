"""Detectors and segmentation networks of torchvision."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, segmentation
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

import sgekit
from tests.libraries.checks import Case, Outputs, check, difference, layers_of, randomize

OFFLINE: dict[str, Any] = {"weights": None, "weights_backbone": None}
SMALL: dict[str, Any] = {"num_classes": 4, "min_size": 64, "max_size": 64}
FEW_BOXES = {"rpn_post_nms_top_n_train": 20, "box_batch_size_per_image": 16}


def heads(model: Any, x: Tensor) -> Outputs:
    """What a detector computes before it picks boxes, which a rounding can swap."""
    images, _ = model.transform(list(x.sigmoid()))
    maps = list(model.backbone(images.tensors).values())
    if hasattr(model, "rpn"):
        objectness, deltas = model.rpn.head(maps)
        return [*maps, *objectness, *deltas]
    return [*maps, *model.head(maps).values()]


def losses(model: Any, x: Tensor) -> Tensor:
    target = {
        "boxes": torch.tensor([[8.0, 8, 40, 48], [20, 4, 60, 30]]),
        "labels": torch.tensor([1, 2]),
        "masks": torch.ones(2, 64, 64, dtype=torch.uint8),
    }
    found = model(list(x.sigmoid()), [target] * len(x))
    return torch.stack(list(found.values())).sum()


def detector(make: Callable[..., nn.Module], **options: Any) -> Case:
    return Case(
        make=partial(make, **OFFLINE, **SMALL, **options),
        input=(2, 3, 64, 64),
        layers=16,
        first="body.layer1.0.bn3.attention",
        last="body.layer4.2.bn3.attention",
        part="backbone",
        outputs=heads,
        loss=losses,
    )


def segmenter(make: Callable[..., nn.Module], layers: int, first: str, last: str) -> Case:
    return Case(partial(make, **OFFLINE, num_classes=4), (2, 3, 32, 32), layers, first, last)


RESNET = (16, "backbone.layer1.0.bn3.attention", "backbone.layer4.2.bn3.attention")
CASES = {
    "fasterrcnn_resnet50_fpn": detector(detection.fasterrcnn_resnet50_fpn, **FEW_BOXES),
    "fasterrcnn_resnet50_fpn_v2": detector(detection.fasterrcnn_resnet50_fpn_v2, **FEW_BOXES),
    "maskrcnn_resnet50_fpn": detector(detection.maskrcnn_resnet50_fpn, **FEW_BOXES),
    "retinanet_resnet50_fpn": detector(detection.retinanet_resnet50_fpn),
    "deeplabv3_resnet50": segmenter(segmentation.deeplabv3_resnet50, *RESNET),
    "fcn_resnet50": segmenter(segmentation.fcn_resnet50, *RESNET),
    # Given whole, the sum of its two classifiers would be taken for a residual block's.
    "lraspp_mobilenet_v3_large": replace(
        segmenter(
            segmentation.lraspp_mobilenet_v3_large,
            10,
            "1.block.1.1.attention",
            "15.block.3.1.attention",
        ),
        part="backbone",
    ),
}

# Long ones; LR-ASPP stays, and other tests below insert into two.
LONG = {
    "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "maskrcnn_resnet50_fpn",
    "fcn_resnet50", "retinanet_resnet50_fpn", "deeplabv3_resnet50",
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in LONG else []) for n in CASES]
)
def test_networks(name: str) -> None:
    check(CASES[name])


def test_frozen_stages_and_norms() -> None:
    """As detectors are fine-tuned: BatchNorm frozen everywhere, the first stages too."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=3
    )
    randomize(backbone)
    backbone.eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before = list(backbone(x).values())
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    names = sgekit.insert(backbone, "sge", groups="auto")
    assert len(names) == 16
    with torch.no_grad():
        assert difference(list(backbone(x).values()), before) <= 1e-5
    assert all(isinstance(backbone.get_submodule(n[:-10]), FrozenBatchNorm2d) for n in names)
    # What was frozen stays so; the new layers are to be trained, in frozen stages too.
    now = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert now - trained == {f"{name}.{tensor}" for name in names for tensor in ("weight", "bias")}
    assert trained <= now


def test_boxes_and_masks_stay() -> None:
    """In float64, where no rounding swaps two boxes, the detections themselves are the same."""
    model = detection.maskrcnn_resnet50_fpn(
        **OFFLINE, **SMALL, box_score_thresh=0.0, box_detections_per_img=5,
        rpn_post_nms_top_n_test=50,
    ).double()  # fmt: skip
    randomize(model)
    model.eval()
    image = torch.rand(3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        (before,) = model([image])
        sgekit.insert(model.backbone, "sge", groups="auto")
        (after,) = model([image])
    assert len(before["boxes"]) > 0
    for name, true in before.items():
        torch.testing.assert_close(after[name], true, rtol=1e-6, atol=1e-6)
    assert len(layers_of(model)) == 16


def test_a_whole_detector_gets_the_same_layers() -> None:
    """It is run on numbers, at its own size."""
    model = detection.fasterrcnn_resnet50_fpn(**OFFLINE, **SMALL)
    names = sgekit.insert(model, "sge", groups="auto")
    assert names == [f"backbone.{name}" for name in sgekit.remove(model.backbone)]
    assert len(names) == 16
