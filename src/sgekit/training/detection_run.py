"""From settings to a finished detection run, and back from its checkpoint."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from sgekit.data.detection import DetectionData, DetectionSplit
from sgekit.detection import DETECTORS, create_detector
from sgekit.detection.evaluation import CocoEvaluation, DetectionScores
from sgekit.errors import InputError
from sgekit.files import write_atomic
from sgekit.training.callbacks import Curve
from sgekit.training.checkpoint import (
    DetectorIdentity,
    identity_of,
    read_checkpoint,
    weights_of,
)
from sgekit.training.detection_loaders import AspectBatches, DetectionSamples, collate
from sgekit.training.detection_task import DetectionTask
from sgekit.training.engine import fit, resumed_epoch
from sgekit.training.loaders import EvalBatches, loader, seed_everything
from sgekit.training.machine import default_workers, resolve_device, world_and_rank
from sgekit.training.settings import RunSettings

DETECTIONS = "detections.json"
"""What a run's last epoch found in the evaluation images, COCO's result list."""


@dataclass(frozen=True)
class DetectionResult:
    """How a detector's run ended; ``scores`` are COCO's of the last epoch, as fractions."""

    seed: int
    ap: float
    best_ap: float
    best_epoch: int
    epochs: int
    seconds: float
    train_images_per_s: float
    scores: dict[str, Any]
    curve: list[dict[str, float]]

    def plain(self) -> dict[str, Any]:
        return dict(self.__dict__)


def check_data(detector: str, data: DetectionData) -> None:
    """Raise InputError where the data lack the masks that the detector needs, or any object."""
    if "mask" in detector and not data.masks:
        plain = {"mask_rcnn": "faster_rcnn", "cascade_mask_rcnn": "cascade_rcnn"}
        raise InputError(
            f"{detector} learns masks, but not every object in {data.name} has one; choose "
            f"{plain.get(detector, 'a detector of boxes')}"
        )
    if all(note["iscrowd"] for note in data.val.ground_truth()["annotations"]):
        raise InputError(
            f"the evaluation images of {data.name} ({data.val_name}) have no object: nothing could "
            "be measured; choose other images with --eval-split"
        )


def build_detector(settings: RunSettings, classes: int) -> nn.Module:
    """The detector at its start; what those with one seed share starts at the same values."""
    recipe = settings.detection
    options: dict[str, Any] = {}
    if _proposes(str(settings.detector)):
        options["box_batch_size_per_image"] = recipe.box_batch_size_per_image
        options["rpn_post_nms_top_n_test"] = recipe.proposals
    seed_everything(settings.seed)
    detector: nn.Module = create_detector(
        str(settings.detector),
        settings.model,
        classes,
        attention=settings.attention,
        groups=settings.groups,
        fpn_attention=settings.fpn_attention,
        norm=recipe.norm,
        frozen_stages=recipe.frozen_stages,
        zero_init_last=recipe.zero_init_last,
        pretrained=settings.pretrained,
        checkpoint=settings.checkpoint,
        min_size=recipe.min_size,
        max_size=recipe.max_size,
        anchor_sizes=recipe.anchor_sizes,
        fpn_channels=recipe.fpn_channels,
        head_width=recipe.head_width,
        **options,
    )
    return detector


def _proposes(detector: str) -> bool:
    kind = DETECTORS.get(detector)
    return kind is not None and not kind.dense


def detector_identity(settings: RunSettings, classes: tuple[str, ...]) -> DetectorIdentity:
    recipe = settings.detection
    return DetectorIdentity(
        detector=str(settings.detector),
        model=settings.model,
        attention=settings.attention,
        groups=settings.groups,
        fpn_attention=settings.fpn_attention,
        norm=recipe.norm,
        classes=classes,
        min_size=recipe.min_size[-1],
        max_size=recipe.max_size,
        anchor_sizes=recipe.anchor_sizes,
        proposals=recipe.proposals,
        fpn_channels=recipe.fpn_channels,
        head_width=recipe.head_width,
    )


def run_detection(
    settings: RunSettings, data: DetectionData, console: Console | None = None
) -> DetectionResult:
    """Train one detector and evaluate it after every epoch.

    Leaves in ``settings.out``: last.ckpt, best.ckpt (by box AP; the earlier of equals),
    detections.json and logs/. With ``resume`` it goes on from last.ckpt, to the same weights
    that an uninterrupted run reaches. Raises InputError on bad settings, files or data,
    NonFiniteLossError when the loss stops being a number.
    """
    recipe = settings.detection
    check_data(str(settings.detector), data)
    accelerator = resolve_device(settings.device)
    if accelerator == "cpu" and recipe.precision == "fp16":
        raise InputError("precision fp16 needs a GPU; on a CPU use bf16 or fp32")
    if accelerator == "cpu" and recipe.norm == "sync" and world_and_rank()[0] > 1:
        raise InputError("norm sync needs GPUs: torch's SyncBatchNorm does not run on a CPU")
    who = detector_identity(settings, data.classes)
    training = recipe.flat() | {
        "seed": settings.seed,
        "data": f"{data.name}, {len(data.train)} + {len(data.val)} images",
    }
    epoch = resumed_epoch(settings, who, training)
    model = build_detector(settings, len(data.classes))
    masks = "mask" in str(settings.detector)
    task = DetectionTask(model, recipe, data.val.ground_truth(), masks, settings.seed)
    workers = default_workers(settings.device) if settings.workers is None else settings.workers
    world, rank = world_and_rank()
    batches = AspectBatches(
        data.train, recipe.batch_size, settings.seed, rank, world, recipe.accumulate
    )
    # Workers fetch ahead before Lightning tells the epoch of a resumed run.
    batches.set_epoch(epoch)
    train = DetectionSamples(data.train, recipe, masks, settings.seed)
    pin = accelerator == "cuda"
    curve = fit(
        task,
        loader(train, batches, workers, pin, collate),
        _evaluation_loader(data.val, recipe.batch_size, workers, pin),
        settings,
        who,
        training,
        console,
        sync_norms=recipe.norm == "sync",
    )
    if task.scores is None:  # the run had ended before
        trained, _ = load_detector(settings.out / "last.ckpt")
        task.evaluation = evaluate_detector(
            trained, who, data, accelerator, batch_size=recipe.batch_size, workers=workers
        )
        task.scores = task.evaluation.compute()
    if rank == 0:
        text = json.dumps(task.evaluation.detections())
        write_atomic(settings.out / DETECTIONS, text.encode())
    return _result(settings.seed, curve, task.scores)


def _evaluation_loader(split: DetectionSplit, batch_size: int, workers: int, pin: bool) -> Any:
    world, rank = world_and_rank()
    samples = DetectionSamples(split, None, False, None)
    batches = EvalBatches(len(split), max(1, batch_size // world), rank, world)
    return loader(samples, batches, workers, pin, collate)


def _result(seed: int, curve: Curve, scores: DetectionScores) -> DetectionResult:
    rows = curve.rows
    best = max(rows, key=lambda row: row["val_ap"])
    return DetectionResult(
        seed=seed,
        ap=scores.box.ap,
        best_ap=best["val_ap"],
        best_epoch=int(best["epoch"]),
        epochs=len(rows),
        seconds=curve.seconds,
        train_images_per_s=curve.train_images / max(curve.train_seconds, 1e-9),
        scores={
            "box": scores.box.as_dict(),
            "mask": scores.mask.as_dict() if scores.mask is not None else None,
        },
        curve=rows,
    )


def load_detector(path: str | Path) -> tuple[nn.Module, DetectorIdentity]:
    """The trained detector in a run's checkpoint, in eval mode, and what it is.

    Raises InputError for a checkpoint of a classifier, or one that does not fit.
    """
    checkpoint = read_checkpoint(path)
    who = identity_of(checkpoint, path)
    if not isinstance(who, DetectorIdentity):
        raise InputError(f"{path} is of the classifier {who.model}; this needs a detector's")
    options: dict[str, Any] = {}
    if _proposes(who.detector):
        options["rpn_post_nms_top_n_test"] = who.proposals
    detector = create_detector(
        who.detector,
        who.model,
        len(who.classes),
        attention=who.attention,
        groups=who.groups,  # type: ignore[arg-type]
        fpn_attention=who.fpn_attention,
        norm=who.norm,  # type: ignore[arg-type]
        min_size=who.min_size,
        max_size=who.max_size,
        anchor_sizes=who.anchor_sizes,
        fpn_channels=who.fpn_channels,
        head_width=who.head_width,
        **options,
    )
    try:
        detector.load_state_dict(weights_of(checkpoint))
    except RuntimeError as error:
        raise InputError(
            f"{path} does not fit {who.detector} on {who.model}: "
            f"{str(error).splitlines()[-1].strip()}"
        ) from error
    return detector.eval(), who


def evaluate_detector(
    detector: nn.Module,
    who: DetectorIdentity,
    data: DetectionData,
    device: str,
    *,
    batch_size: int = 8,
    workers: int = 0,
    progress: bool = False,
) -> CocoEvaluation:
    """Run a detector on the evaluation split; `compute()` of what is returned gives the scores.

    Raises InputError where the data's classes are not the detector's.
    """
    if data.classes != who.classes:
        missing = [name for name in data.classes if name not in who.classes]
        words = f"the detector does not know {', '.join(missing[:3])}" if missing else "they differ"
        raise InputError(
            f"{data.name} has {len(data.classes)} classes, "
            f"the checkpoint {len(who.classes)}: {words}"
        )
    masks = "mask" in who.detector and data.masks
    evaluation = CocoEvaluation(data.val.ground_truth(), masks)
    batches: Iterable[Any] = _evaluation_loader(data.val, batch_size, workers, device == "cuda")
    if progress:
        from rich.progress import track

        batches = track(batches, description=f"evaluating on {data.val_name}")
    detector.to(device).eval()
    with torch.inference_mode():
        for images, targets in batches:
            found = detector([image.to(device) for image in images])
            cpu = [{name: value.float().cpu() for name, value in one.items()} for one in found]
            evaluation.update([target["image_id"] for target in targets], cpu)
    return evaluation
