"""Cascade R-CNN's heads on torchvision's: three detectors, each fed with the boxes of the last.

Cai and Vasconcelos, arXiv 1712.00726. What is left open there, or done in more than one way, is
decided so:

- Training. The first stage samples its boxes as Faster R-CNN does: proposals and ground truth, a
  quarter positive at most. A later stage takes those same boxes as refined by the stage before,
  clipped to the picture and without gradient, and labels all of them anew with its own IoU
  threshold. Nothing is sampled again and no ground truth added again; what was added at the
  start is refined along with the rest.
- Box regression is class-agnostic, with smooth L1 of torchvision's beta (1/9). Losses are means
  over all boxes of a stage, as in torchvision, times the stage's weight.
- Inference. The boxes that reach the last stage are scored by all three classifiers, each with
  its own head, and the probabilities averaged; the last stage's regression gives the final boxes.
- Masks. One mask head, trained on the last stage's positive boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.roi_heads import RoIHeads, maskrcnn_inference, maskrcnn_loss
from torchvision.ops import box_iou, clip_boxes_to_image

Boxes = list[Tensor]
"""One tensor (N, 4) an image: x0, y0, x1, y1."""
Sizes = list[tuple[int, int]]
Features = dict[str, Tensor]
Targets = Sequence[dict[str, Tensor]]


@dataclass(frozen=True)
class Stage:
    """One detector of the cascade."""

    iou: float
    """Boxes that overlap an object by this or more are positive, all others background."""
    box_weights: tuple[float, float, float, float]
    """What the regression targets (dx, dy, dw, dh) are multiplied by."""
    loss_weight: float


STAGES = (
    Stage(0.5, (10.0, 10.0, 5.0, 5.0), 1.0),
    Stage(0.6, (20.0, 20.0, 10.0, 10.0), 0.5),
    Stage(0.7, (30.0, 30.0, 15.0, 15.0), 0.25),
)


class ClassAgnosticPredictor(nn.Module):
    """(N, width) to logits (N, K + 1), background first, and one box's deltas (N, 4)."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(width, num_classes + 1)
        self.bbox_pred = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x), self.bbox_pred(x)


def assign(boxes: Tensor, target: dict[str, Tensor], iou: float) -> tuple[Tensor, Tensor]:
    """The object nearest to each box, and the box's label: 0 where they overlap by less than `iou`.

    Two tensors (N,). On a picture without objects every box is background.
    """
    objects = target["boxes"].to(boxes)
    if not len(boxes) or not len(objects):
        nothing = torch.zeros(len(boxes), dtype=torch.int64, device=boxes.device)
        return nothing, nothing.clone()
    overlap, nearest = box_iou(objects, boxes).max(dim=0)
    return nearest, torch.where(overlap >= iou, target["labels"][nearest], 0)


def stage_losses(
    logits: Tensor, deltas: Tensor, labels: Tensor, boxes: Tensor, objects: Tensor, coder: Any
) -> tuple[Tensor, Tensor]:
    """Cross-entropy and smooth L1, both summed over the N boxes and divided by N.

    `objects` (N, 4) is the object of each box; only those of positive boxes are looked at.
    """
    count = max(1, len(labels))
    positive = torch.where(labels > 0)[0]
    wanted = coder.encode_single(objects[positive], boxes[positive])
    classes = F.cross_entropy(logits, labels, reduction="sum")
    regression = F.smooth_l1_loss(deltas[positive], wanted, beta=1 / 9, reduction="sum")
    return classes / count, regression / count


class CascadeRoIHeads(RoIHeads):  # type: ignore[misc]
    """torchvision's RoIHeads whose `box_head` and `box_predictor` are lists, one a stage.

    In training the losses are `loss_classifier_1`, `loss_box_reg_1` and so on, with the stages'
    weights in them, and `loss_mask` where there is a mask head.
    """

    def __init__(self, parts: RoIHeads, stages: Sequence[Stage] = STAGES) -> None:
        """`parts` holds the modules and settings; its own thresholds and box weights are unused."""
        super().__init__(
            parts.box_roi_pool,
            parts.box_head,
            parts.box_predictor,
            stages[0].iou,
            stages[0].iou,
            parts.fg_bg_sampler.batch_size_per_image,
            parts.fg_bg_sampler.positive_fraction,
            stages[-1].box_weights,
            parts.score_thresh,
            parts.nms_thresh,
            parts.detections_per_img,
            parts.mask_roi_pool,
            parts.mask_head,
            parts.mask_predictor,
        )
        self.stages = tuple(stages)
        self.coders = [BoxCoder(stage.box_weights) for stage in stages]

    def forward(
        self,
        features: Features,
        proposals: Boxes,
        image_shapes: Sizes,
        targets: Targets | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            self.check_targets(targets)
            return [], self._losses(features, proposals, image_shapes, targets or ())
        return self._detections(features, proposals, image_shapes), {}

    def predict(
        self, stage: int, features: Features, boxes: Boxes, sizes: Sizes
    ) -> tuple[Tensor, Tensor]:
        """A stage's logits (N, K + 1) and deltas (N, 4) for the boxes of all images."""
        pooled = self.box_roi_pool(features, boxes, sizes)
        logits, deltas = self.box_predictor[stage](self.box_head[stage](pooled))
        return logits, deltas

    def refine(self, stage: int, deltas: Tensor, boxes: Boxes, sizes: Sizes) -> Boxes:
        """The boxes as the stage moves them, clipped to their pictures; no gradient flows."""
        moved = self.coders[stage].decode_single(deltas.detach(), torch.cat(boxes))
        parts = moved.split([len(one) for one in boxes])
        return [clip_boxes_to_image(one, size) for one, size in zip(parts, sizes, strict=True)]

    def sample(self, proposals: Boxes, targets: Targets) -> Boxes:
        """The first stage's boxes in training."""
        objects = [target["boxes"].to(proposals[0]) for target in targets]
        boxes: Boxes = self.add_gt_proposals(proposals, objects)
        labels = [
            assign(one, target, self.stages[0].iou)[1]
            for one, target in zip(boxes, targets, strict=True)
        ]
        return [one[kept] for one, kept in zip(boxes, self.subsample(labels), strict=True)]

    def _losses(
        self, features: Features, proposals: Boxes, sizes: Sizes, targets: Targets
    ) -> dict[str, Tensor]:
        boxes = self.sample(proposals, targets)
        losses: dict[str, Tensor] = {}
        for number, stage in enumerate(self.stages):
            assigned = [
                assign(one, target, stage.iou) for one, target in zip(boxes, targets, strict=True)
            ]
            logits, deltas = self.predict(number, features, boxes, sizes)
            classes, regression = stage_losses(
                logits,
                deltas,
                torch.cat([labels for _, labels in assigned]),
                torch.cat(boxes),
                torch.cat(
                    [_objects(t, index) for t, (index, _) in zip(targets, assigned, strict=True)]
                ),
                self.coders[number],
            )
            losses[f"loss_classifier_{number + 1}"] = stage.loss_weight * classes
            losses[f"loss_box_reg_{number + 1}"] = stage.loss_weight * regression
            if number + 1 < len(self.stages):
                boxes = self.refine(number, deltas, boxes, sizes)
        if self.has_mask():
            positive = [torch.where(labels > 0)[0] for _, labels in assigned]
            kept = [one[chosen] for one, chosen in zip(boxes, positive, strict=True)]
            losses["loss_mask"] = maskrcnn_loss(
                self._masks(features, kept, sizes),
                kept,
                [target["masks"] for target in targets],
                [target["labels"] for target in targets],
                [index[chosen] for (index, _), chosen in zip(assigned, positive, strict=True)],
            )
        return losses

    def _detections(
        self, features: Features, boxes: Boxes, sizes: Sizes
    ) -> list[dict[str, Tensor]]:
        last = len(self.stages) - 1
        for number in range(last):
            _, deltas = self.predict(number, features, boxes, sizes)
            boxes = self.refine(number, deltas, boxes, sizes)
        pooled = self.box_roi_pool(features, boxes, sizes)
        outputs = [
            predictor(head(pooled))
            for head, predictor in zip(self.box_head, self.box_predictor, strict=True)
        ]
        scores = torch.stack([logits.softmax(-1) for logits, _ in outputs]).mean(dim=0)
        # torchvision takes logits, whose softmax are the scores, and a box for every class.
        every = outputs[last][1].repeat(1, scores.shape[-1])
        found = self.postprocess_detections(scores.log(), every, boxes, sizes)
        results = [
            {"boxes": one, "labels": labels, "scores": score}
            for one, score, labels in zip(*found, strict=True)
        ]
        if self.has_mask():
            logits = self._masks(features, [result["boxes"] for result in results], sizes)
            masks = maskrcnn_inference(logits, [result["labels"] for result in results])
            for result, mask in zip(results, masks, strict=True):
                result["masks"] = mask
        return results

    def _masks(self, features: Features, boxes: Boxes, sizes: Sizes) -> Tensor:
        pooled = self.mask_roi_pool(features, boxes, sizes)
        logits: Tensor = self.mask_predictor(self.mask_head(pooled))
        return logits


def _objects(target: dict[str, Tensor], index: Tensor) -> Tensor:
    """The object of every box; a box that is none where the picture has no objects."""
    objects = target["boxes"]
    return objects[index] if len(objects) else objects.new_zeros(len(index), 4)
