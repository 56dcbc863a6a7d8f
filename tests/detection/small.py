"""Detectors and pictures that are small enough for the tests."""

from typing import Any

import torch
from torch import Tensor, nn

from sgekit.detection import create_detector

BACKBONE = "resnet10_small"
FEW: dict[str, Any] = {
    "rpn_pre_nms_top_n_train": 60,
    "rpn_pre_nms_top_n_test": 60,
    "rpn_post_nms_top_n_train": 40,
    "rpn_post_nms_top_n_test": 20,
    "box_batch_size_per_image": 16,
    "box_score_thresh": 0.0,
    "box_detections_per_img": 10,
}


def detector(name: str = "faster_rcnn", backbone: str = BACKBONE, **options: Any) -> Any:
    """On pictures of 64 pixels, with three classes, from one seed."""
    torch.manual_seed(0)
    few = {"score_thresh": 0.0, "detections_per_img": 10} if name == "retinanet" else FEW
    given = {"num_classes": 3, "min_size": 64, "max_size": 96} | few | options
    return create_detector(name, backbone, **given)


def images(channels: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [
        torch.rand(channels, height, width, generator=generator)
        for height, width in ((64, 80), (70, 64))
    ]


def targets() -> list[dict[str, Tensor]]:
    """Two objects on the first picture, none on the second."""
    masks = torch.zeros(2, 64, 80, dtype=torch.uint8)
    masks[0, 8:40, 10:34] = 1
    masks[1, 20:60, 40:76] = 1
    return [
        {
            "boxes": torch.tensor([[10.0, 8, 34, 40], [40, 20, 76, 60]]),
            "labels": torch.tensor([1, 3]),
            "masks": masks,
        },
        {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, 70, 64, dtype=torch.uint8),
        },
    ]


def randomise(model: nn.Module, seed: int = 0) -> None:
    """Norms with weights and statistics that are none of the usual starts."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var")) or value.ndim == 1:
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.25)
