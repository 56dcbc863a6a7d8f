"""The cascade against its definition, written out once more in plain loops and float64."""

import math
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.ops import MultiScaleRoIAlign, nms, roi_align

from sgekit.detection.cascade import (
    STAGES,
    CascadeRoIHeads,
    ClassAgnosticPredictor,
    assign,
    stage_losses,
)
from tests.detection import small

SIZE = (48, 64)
CLASSES = 2
Box = tuple[float, ...]


def overlap(a: Box, b: Box) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def label_of(box: Box, objects: list[Box], labels: list[int], iou: float) -> tuple[int, int]:
    values = [overlap(one, box) for one in objects]
    best = max(range(len(values)), key=values.__getitem__, default=0)
    return best, labels[best] if values and values[best] >= iou else 0


def moved(box: Box, delta: Box, weights: Box) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    x = (box[0] + box[2]) / 2 + delta[0] / weights[0] * width
    y = (box[1] + box[3]) / 2 + delta[1] / weights[1] * height
    limit = math.log(1000 / 16)
    half_w = width * math.exp(min(delta[2] / weights[2], limit)) / 2
    half_h = height * math.exp(min(delta[3] / weights[3], limit)) / 2
    right, down = SIZE[1], SIZE[0]
    return (
        min(max(x - half_w, 0), right),
        min(max(y - half_h, 0), down),
        min(max(x + half_w, 0), right),
        min(max(y + half_h, 0), down),
    )


def wanted(box: Box, target: Box, weights: Box) -> Box:
    width, height = box[2] - box[0], box[3] - box[1]
    return (
        weights[0] * ((target[0] + target[2]) - (box[0] + box[2])) / 2 / width,
        weights[1] * ((target[1] + target[3]) - (box[1] + box[3])) / 2 / height,
        weights[2] * math.log((target[2] - target[0]) / width),
        weights[3] * math.log((target[3] - target[1]) / height),
    )


def smooth(error: float, beta: float = 1 / 9) -> float:
    return error**2 / 2 / beta if abs(error) < beta else abs(error) - beta / 2


def losses_of(
    logits: Tensor, deltas: Tensor, boxes: list[Box], objects: list[Box], labels: list[int],
    stage: Any,
) -> tuple[float, float]:  # fmt: skip
    classes = regression = 0.0
    for row, (box, one) in enumerate(zip(boxes, logits.tolist(), strict=True)):
        nearest, label = label_of(box, objects, labels, stage.iou)
        classes += math.log(sum(math.exp(value - one[label]) for value in one))
        if label:
            target = wanted(box, objects[nearest], stage.box_weights)
            errors = zip(deltas[row].tolist(), target, strict=True)
            regression += sum(smooth(is_ - should) for is_, should in errors)
    return classes / len(boxes), regression / len(boxes)


def some_boxes(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 30
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 16 + 2
    return torch.cat([corner, corner + side], dim=1)


def rows(boxes: Tensor) -> list[Box]:
    return [tuple(row) for row in boxes.tolist()]


def near(boxes: Tensor, seed: int, copies: int = 12) -> Tensor:
    """Boxes that overlap these by much and by little."""
    generator = torch.Generator().manual_seed(seed)
    every = boxes.repeat(copies, 1)
    shift = torch.randn(every.shape, generator=generator, dtype=torch.float64)
    found = every + shift * torch.linspace(0.2, 2.5, copies).repeat_interleave(len(boxes))[:, None]
    return torch.cat([torch.minimum(found[:, :2], found[:, 2:] - 1), found[:, 2:]], dim=1).clamp(0)


def cascade(masks: bool = False) -> CascadeRoIHeads:
    torch.manual_seed(3)
    pool = MultiScaleRoIAlign(["0"], 3, 2)
    parts = RoIHeads(
        pool,
        nn.ModuleList(nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.ReLU()) for _ in STAGES),
        nn.ModuleList(ClassAgnosticPredictor(8, CLASSES) for _ in STAGES),
        # What the cascade must not use.
        0.1, 0.1, 1000, 0.25, (1.0, 1.0, 1.0, 1.0),
        0.05, 0.5, 10,
    )  # fmt: skip
    heads = CascadeRoIHeads(parts)
    heads.double()
    for predictor in heads.box_predictor:
        # Large enough that boxes move and scores differ.
        predictor.bbox_pred.weight.data.mul_(8)
        predictor.cls_score.weight.data.mul_(8)
    if masks:
        heads.mask_roi_pool = MultiScaleRoIAlign(["0"], 4, 2)
        heads.mask_head = nn.Identity()
        heads.mask_predictor = nn.Conv2d(2, CLASSES + 1, 1).double()
    return heads


def features() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    shape = (2, 2, SIZE[0] // 4, SIZE[1] // 4)
    return OrderedDict({"0": torch.randn(shape, generator=generator, dtype=torch.float64)})


def scene() -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Proposals and targets: three objects on the first picture, none on the second."""
    objects = some_boxes(3, 0)
    masks = torch.zeros(3, *SIZE, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, objects.long().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    first = {"boxes": objects, "labels": torch.tensor([1, 2, 1]), "masks": masks}
    second = {
        "boxes": objects[:0],
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": masks[:0],
    }
    return [near(objects, 1), some_boxes(6, 2)], [first, second]


def outputs(heads: Any, stage: int, image: int, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """What a stage says of boxes on one of the pictures."""
    rois = torch.cat([torch.full((len(boxes), 1), image), boxes], dim=1)
    pooled = roi_align(features()["0"], rois, 3, 1 / 4, 2)
    with torch.no_grad():
        logits, deltas = heads.box_predictor[stage](heads.box_head[stage](pooled))
    return logits, deltas


@pytest.mark.parametrize("iou", [stage.iou for stage in STAGES])
def test_assignment(iou: float) -> None:
    objects = some_boxes(4, 0)
    boxes = torch.cat(
        [near(objects, 1), objects, some_boxes(20, 2), torch.tensor([[5.0, 5, 5, 9]])]
    )
    labels = torch.tensor([2, 1, 1, 2])
    nearest, found = assign(boxes, {"boxes": objects, "labels": labels}, iou)
    true = [label_of(box, rows(objects), labels.tolist(), iou) for box in rows(boxes)]
    assert found.tolist() == [label for _, label in true]
    positive = found > 0
    assert nearest[positive].tolist() == [index for index, label in true if label]
    assert 4 < positive.sum() < len(boxes) - 4


def test_assignment_at_the_threshold_is_positive() -> None:
    objects = torch.tensor([[0.0, 0, 10, 10]])
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4.99]])
    _, labels = assign(boxes, {"boxes": objects, "labels": torch.tensor([3])}, 0.5)
    assert labels.tolist() == [3, 0]


def test_assignment_of_nothing() -> None:
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    assert assign(some_boxes(3, 0), target, 0.5)[1].tolist() == [0, 0, 0]
    assert assign(torch.zeros(0, 4), target, 0.5)[1].shape == (0,)


@pytest.mark.parametrize("number", range(3))
def test_refining(number: int) -> None:
    heads = cascade()
    boxes = some_boxes(12, 7)
    deltas = torch.randn(12, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64) * 9
    deltas.requires_grad_()
    first, second = heads.refine(number, deltas, [boxes[:5], boxes[5:]], [SIZE, SIZE])
    weights = STAGES[number].box_weights
    true = [moved(b, d, weights) for b, d in zip(rows(boxes), rows(deltas), strict=True)]
    torch.testing.assert_close(torch.cat([first, second]), torch.tensor(true, dtype=torch.float64))
    assert not first.requires_grad


@pytest.mark.parametrize("number", range(3))
def test_losses_of_a_stage(number: int) -> None:
    stage, heads = STAGES[number], cascade()
    _, (target, _) = scene()
    boxes = near(target["boxes"], 3)
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(len(boxes), CLASSES + 1, generator=generator, dtype=torch.float64)
    deltas = torch.randn(len(boxes), 4, generator=generator, dtype=torch.float64)
    nearest, labels = assign(boxes, target, stage.iou)
    found = stage_losses(
        logits, deltas, labels, boxes, target["boxes"][nearest], heads.coders[number]
    )
    true = losses_of(
        logits, deltas, rows(boxes), rows(target["boxes"]), target["labels"].tolist(), stage
    )
    assert [float(loss) for loss in found] == pytest.approx(true, rel=1e-9)
    assert min(true) > 0


def test_a_stage_without_boxes_has_no_loss() -> None:
    none = torch.zeros(0, 4, requires_grad=True)
    logits = torch.zeros(0, 3, requires_grad=True)
    labels = torch.zeros(0, dtype=torch.int64)
    losses = stage_losses(logits, none, labels, none, none, cascade().coders[0])
    assert [loss.item() for loss in losses] == [0, 0]


def test_training_goes_from_stage_to_stage() -> None:
    heads = cascade().train()
    proposals, targets = scene()
    _, found = heads(features(), proposals, [SIZE, SIZE], targets)
    boxes = [torch.cat([p, t["boxes"]]) for p, t in zip(proposals, targets, strict=True)]
    positives = []
    for number, stage in enumerate(STAGES):
        count = sum(map(len, boxes))
        sums = [0.0, 0.0]
        moving = []
        for image, (one, target) in enumerate(zip(boxes, targets, strict=True)):
            logits, deltas = outputs(heads, number, image, one)
            objects, labels = rows(target["boxes"]), target["labels"].tolist()
            parts = losses_of(logits, deltas, rows(one), objects, labels, stage)
            sums = [total + part * len(one) for total, part in zip(sums, parts, strict=True)]
            if objects:
                all_labels = [label_of(b, objects, labels, stage.iou)[1] for b in rows(one)]
                positives.append(sum(label > 0 for label in all_labels))
            pairs = zip(rows(one), rows(deltas), strict=True)
            moving.append([moved(b, d, stage.box_weights) for b, d in pairs])
        names = f"loss_classifier_{number + 1}", f"loss_box_reg_{number + 1}"
        told = [found[name].item() for name in names]
        true = [stage.loss_weight * total / count for total in sums]
        assert told == pytest.approx(true, rel=1e-9)
        boxes = [torch.tensor(one, dtype=torch.float64) for one in moving]
    assert len(found) == 6
    # Each stage has positives of its own, so that the test sees the labels change.
    assert min(positives) > 0
    assert len(set(positives)) == 3


def test_no_gradient_goes_back_through_the_boxes() -> None:
    heads = cascade().train()
    proposals, targets = scene()
    _, found = heads(features(), proposals, [SIZE, SIZE], targets)
    later = sum(found[name] for name in found if not name.endswith("_1"))
    assert isinstance(later, Tensor)
    later.backward()  # type: ignore[no-untyped-call]
    first = [*heads.box_head[0].parameters(), *heads.box_predictor[0].parameters()]
    assert all(parameter.grad is None for parameter in first)
    others = [*heads.box_head[1:].parameters(), *heads.box_predictor[1:].parameters()]
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in others)


def test_the_last_boxes_are_scored_by_all_and_averaged() -> None:
    heads = cascade().eval()
    proposals, _ = scene()
    found, losses = heads(features(), proposals, [SIZE, SIZE])
    assert losses == {}
    for image, boxes in enumerate(proposals):
        for number in range(2):
            _, deltas = outputs(heads, number, image, boxes)
            pairs = zip(rows(boxes), rows(deltas), strict=True)
            moving = [moved(b, d, STAGES[number].box_weights) for b, d in pairs]
            boxes = torch.tensor(moving, dtype=torch.float64)  # noqa: PLW2901
        said = [outputs(heads, number, image, boxes) for number in range(3)]
        scores = sum(logits.exp() / logits.exp().sum(1, keepdim=True) for logits, _ in said) / 3
        assert isinstance(scores, Tensor)
        pairs = zip(rows(boxes), rows(said[2][1]), strict=True)
        final = torch.tensor(
            [moved(b, d, STAGES[2].box_weights) for b, d in pairs], dtype=torch.float64
        )
        true: list[tuple[float, int, Box]] = []
        for label in range(1, CLASSES + 1):
            sides = final[:, 2:] - final[:, :2]
            chosen = (scores[:, label] > 0.05) & (sides >= 1e-2).all(dim=1)
            kept = nms(final[chosen], scores[chosen, label], 0.5)
            true += [
                (float(scores[chosen, label][k]), label, tuple(final[chosen][k].tolist()))
                for k in kept
            ]
        true = sorted(true, reverse=True)[:10]
        result = found[image]
        assert len(true) > 2
        assert result["labels"].tolist() == [label for _, label, _ in true]
        assert result["scores"].tolist() == pytest.approx([score for score, *_ in true])
        wanted_boxes = torch.tensor([box for *_, box in true], dtype=torch.float64)
        torch.testing.assert_close(result["boxes"], wanted_boxes)


def test_masks_are_learned_on_the_last_stages_positives() -> None:
    heads = cascade(masks=True).train()
    seen: list[list[Tensor]] = []
    heads.mask_roi_pool.register_forward_pre_hook(lambda _, args: seen.append(args[1]))
    proposals, targets = scene()
    _, found = heads(features(), proposals, [SIZE, SIZE], targets)
    boxes = torch.cat([proposals[0], targets[0]["boxes"]])
    for number in range(2):
        _, deltas = outputs(heads, number, 0, boxes)
        pairs = zip(rows(boxes), rows(deltas), strict=True)
        moving = [moved(b, d, STAGES[number].box_weights) for b, d in pairs]
        boxes = torch.tensor(moving, dtype=torch.float64)
    objects, labels = rows(targets[0]["boxes"]), targets[0]["labels"].tolist()
    true = [b for b in rows(boxes) if label_of(b, objects, labels, STAGES[2].iou)[1]]
    torch.testing.assert_close(seen[0][0], torch.tensor(true, dtype=torch.float64))
    assert seen[0][1].shape == (0, 4)
    assert float(found["loss_mask"]) > 0
    found["loss_mask"].backward()
    assert heads.mask_predictor.weight.grad.any()


@pytest.mark.parametrize("masks", [False, True], ids=["boxes", "masks"])
def test_pictures_without_objects_or_proposals(masks: bool) -> None:
    heads = cascade(masks).train()
    proposals, (_, empty) = scene()
    _, found = heads(features(), proposals, [SIZE, SIZE], [empty, empty])
    loss = sum(found.values())
    assert isinstance(loss, Tensor)
    assert torch.isfinite(loss)
    assert float(found["loss_box_reg_3"]) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is not None for parameter in heads.parameters())
    none = torch.zeros(0, 4, dtype=torch.float64)
    results, _ = heads.eval()(features(), [none, none], [SIZE, SIZE])
    assert [len(result["boxes"]) for result in results] == [0, 0]
    assert all(("masks" in result) == masks for result in results)


def test_targets_are_asked_for() -> None:
    heads = cascade().train()
    proposals, _ = scene()
    with pytest.raises(ValueError, match="targets should not be None"):
        heads(features(), proposals, [SIZE, SIZE])


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet"])
def test_autocast_keeps_anchors_in_full_precision(name: str) -> None:
    model = small.detector(name, min_size=32)
    found: list[list[torch.Tensor]] = []
    anchors = (model.rpn if name == "faster_rcnn" else model).anchor_generator
    anchors.register_forward_hook(lambda module, inputs, out: found.append(out))
    model.eval()
    picture = [torch.rand(3, 32, 1100)]
    model.transform.max_size = 1100
    with torch.no_grad():
        model(picture)
        with torch.autocast("cpu", torch.bfloat16):
            model(picture)
    full, mixed = (boxes[0] for boxes in found)
    assert full[:, 2].max() > 1024
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, full)


def test_autocast_keeps_boxes_in_full_precision() -> None:
    model = small.detector("cascade_rcnn", min_size=32)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(small.images(), small.targets())
        total = sum(losses.values())
        total.backward()
        found = model.eval()(small.images())
    assert all(torch.isfinite(loss) for loss in losses.values())
    gradients = {n: p.grad for n, p in model.named_parameters()}
    assert all(g is not None and torch.isfinite(g).all() for g in gradients.values())
    boxes = torch.cat([result["boxes"] for result in found])
    assert boxes.dtype == found[0]["scores"].dtype == torch.float32
    # Numbers that bfloat16 cannot hold.
    assert (boxes != boxes.bfloat16().float()).float().mean() > 0.3
