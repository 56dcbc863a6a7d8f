"""What `train` and `val` do with detectors."""

import argparse
import json
import os
from pathlib import Path

import torch
from rich.console import Console

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.data.detection import DetectionData
from sgekit.detection.drawing import best_and_worst, draw_detections, image_scores, sheet
from sgekit.detection.evaluation import CocoEvaluation, DetectionScores
from sgekit.files import write_atomic
from sgekit.training.checkpoint import DetectorIdentity, identity_of, read_checkpoint
from sgekit.training.detection_loaders import to_tensor
from sgekit.training.detection_run import (
    DetectionResult,
    evaluate_detector,
    load_detector,
    run_detection,
)
from sgekit.training.environment import environment
from sgekit.training.machine import default_workers, resolve_device
from sgekit.training.results import describe_data
from sgekit.training.settings import RunSettings

SHOWN = 8
"""How many of the best and of the worst images are drawn."""


def is_detectors(path: str) -> bool:
    """Whether a checkpoint is a detector's."""
    if not path.endswith(".ckpt"):
        return False
    return isinstance(identity_of(read_checkpoint(path), path), DetectorIdentity)


def train(options: argparse.Namespace) -> int:
    """Train one detector."""
    recipe = shared.detection_recipe_from(options)
    data = shared.open_boxes_from(options)
    settings = RunSettings(
        model=shared.default_model(options),
        attention=options.attention,
        recipe=recipe,
        out=output.out_dir(options),
        seed=options.seed,
        groups=options.groups,
        pretrained=options.pretrained,
        workers=options.workers,
        device=options.device,
        resume=options.resume,
        detector=options.detector or "faster_rcnn",
        fpn_attention=options.fpn_attention,
        checkpoint=Path(options.init) if options.init else None,
        label=f"{options.attention} · seed {options.seed}",
    )
    result = run_detection(settings, data, Console(stderr=True))
    if os.environ.get("RANK", "0") == "0":
        print(_ended(result, data.val_name))
        print(f"checkpoint: {settings.out / 'last.ckpt'}")
        output.write_results(
            options,
            "train",
            {
                "detector": settings.detector,
                "model": settings.model,
                "attention": settings.attention,
                "groups": settings.groups,
                "seed": settings.seed,
                "pretrained": settings.pretrained,
                "recipe": settings.recipe.flat(),
                "data": describe_data(data),
                "environment": environment(resolve_device(settings.device)),
                "result": result.plain(),
            },
        )
    return 0


def _ended(result: DetectionResult, val_name: str) -> str:
    box = result.scores["box"]
    mask = result.scores["mask"]
    words = f", mask AP {_percent(mask['ap'])}" if mask else ""
    return (
        f"AP {_percent(box['ap'])}, AP50 {_percent(box['ap50'])}, AP75 {_percent(box['ap75'])}"
        f"{words} on {val_name} after {result.epochs} epochs (best: {_percent(result.best_ap)} at "
        f"{result.best_epoch}); {result.train_images_per_s:,.1f} images/s"
    )


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def val(options: argparse.Namespace) -> int:
    """Evaluate a detector: COCO's scores, every class, the best and worst images."""
    detector, who = load_detector(options.checkpoint)
    data = shared.open_boxes_from(options)
    device = resolve_device(options.device)
    workers = default_workers(options.device) if options.workers is None else options.workers
    evaluation = evaluate_detector(
        detector,
        who,
        data,
        device,
        batch_size=shared.positive(options.batch_size, "--batch-size"),
        workers=workers,
        progress=True,
    )
    scores = evaluation.compute()
    for line in _table(scores):
        print(line)
    out = output.out_dir(options)
    write_atomic(
        out / "detections.json", json.dumps(evaluation.detections(data.category_ids)).encode()
    )
    _sheets(detector, who, evaluation, data, device, out)
    output.write_results(
        options,
        "val",
        {
            "checkpoint": str(options.checkpoint),
            "network": who.plain(),
            "data": describe_data(data),
            "environment": environment(device),
            "result": {
                "box": scores.box.as_dict(),
                "mask": scores.mask.as_dict() if scores.mask is not None else None,
            },
        },
    )
    return 0


def _sheets(
    detector: torch.nn.Module,
    who: DetectorIdentity,
    evaluation: CocoEvaluation,
    data: DetectionData,
    device: str,
    out: Path,
) -> None:
    """best.png and worst.png: what is annotated beside what was found."""
    matches = evaluation.matches("mask" if evaluation.masks else "box")
    scores = image_scores(matches)
    places = {data.val.image_id(index): index for index in range(len(data.val))}
    for name, chosen in zip(("best", "worst"), best_and_worst(scores, SHOWN), strict=True):
        pairs = []
        for number in chosen:
            index = places[int(matches.image_ids[number])]
            picture, target = data.val[index]
            with torch.inference_mode():
                (found,) = detector([to_tensor(picture).to(device)])
            pairs.append(
                (
                    draw_detections(picture, target, who.classes),
                    draw_detections(picture, found, who.classes),
                    f"{data.val.source(index)}, F1 {scores[number]:.2f}",
                )
            )
        if pairs:
            sheet(pairs).save(out / f"{name}.png")
    print(f"best and worst images: {out / 'best.png'}, {out / 'worst.png'}")


def _table(scores: DetectionScores) -> list[str]:
    lines = []
    for kind, found in (("box", scores.box), ("mask", scores.mask)):
        if found is not None:
            plain = found.as_dict()
            sizes = " / ".join(
                _percent(plain[f"ap_{size}"]) for size in ("small", "medium", "large")
            )
            lines.append(
                f"{kind}: AP {_percent(plain['ap'])}, AP50 {_percent(plain['ap50'])}, "
                f"AP75 {_percent(plain['ap75'])}; small / medium / large {sizes}; "
                f"AR {_percent(plain['ar100'])}"
            )
    width = max((len(name) for name in scores.box.per_class), default=0)
    lines += [
        f"  {name:<{width}}  AP {_percent(value)}"
        for name, value in scores.box.as_dict()["per_class"].items()
    ]
    return lines
