"""Evaluating a trained network, and labelling images with one."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from sgekit.data import ImageData
from sgekit.data.decode import decode
from sgekit.errors import InputError
from sgekit.training.checkpoint import Identity
from sgekit.training.loaders import EvalBatches, Samples, eval_transform, loader


@dataclass(frozen=True)
class Evaluation:
    """Accuracies are fractions; ``per_class`` follows the order of the classes (None: no image)."""

    images: int
    top1: float
    top5: float
    loss: float
    per_class: dict[str, float | None]


def evaluate(
    network: nn.Module,
    who: Identity,
    data: ImageData,
    device: str,
    *,
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
) -> Evaluation:
    """Accuracy and loss of ``network`` on the evaluation split.

    Raises InputError where the data's classes are not the network's.
    """
    if data.classes != who.classes:
        missing = [name for name in data.classes if name not in who.classes]
        words = f"the network does not know {', '.join(missing[:3])}" if missing else "they differ"
        raise InputError(
            f"{data.name} has {len(data.classes)} classes, "
            f"the checkpoint {len(who.classes)}: {words}"
        )
    classes = len(who.classes)
    loss = MeanMetric().to(device)
    top1, top5 = (
        MulticlassAccuracy(classes, top_k=k, average="micro").to(device)
        for k in (1, min(5, classes))
    )
    per_class = MulticlassAccuracy(classes, average="none").to(device)
    seen = torch.zeros(classes, dtype=torch.long)
    samples = Samples(
        data.val, eval_transform(who.image_size, who.eval_crop, who.interpolation), None
    )
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]] = loader(
        samples, EvalBatches(len(data.val), batch_size, 0, 1), workers, device == "cuda"
    )
    if progress:
        from rich.progress import track

        batches = track(batches, description=f"evaluating on {data.val_name}")
    network.to(device).eval()
    with torch.inference_mode():
        for images, targets in batches:
            seen += torch.bincount(targets, minlength=classes)
            labels = targets.to(device)
            logits = network(images.to(device)).float()
            loss.update(F.cross_entropy(logits, labels), len(labels))
            for metric in (top1, top5, per_class):
                metric.update(logits, labels)
    shares = per_class.compute().tolist()
    return Evaluation(
        images=len(data.val),
        top1=float(top1.compute()),
        top5=float(top5.compute()),
        loss=float(loss.compute()),
        per_class={
            name: share if count else None
            for name, share, count in zip(who.classes, shares, seen.tolist(), strict=True)
        },
    )


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Image files and the images below folders, sorted. Raises InputError where there are none."""
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            known = Image.registered_extensions()
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in known and p.is_file())
            if not inside:
                raise InputError(f"{path} has no images in it")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise InputError(f"there is no image or folder {path}")
    return found


def predict(
    network: nn.Module,
    who: Identity,
    files: Sequence[Path],
    device: str,
    *,
    top: int = 5,
    batch_size: int = 32,
    skipped: list[Path] | None = None,
) -> Iterable[tuple[Path, list[tuple[str, float]]]]:
    """Each file's likeliest classes with their probabilities, the likeliest first.

    A file that is no image is left out and added to ``skipped``, where that is given;
    else InputError names it.
    """
    transform = eval_transform(who.image_size, who.eval_crop, who.interpolation)
    network.to(device).eval()
    for start in range(0, len(files), batch_size):
        some, tensors = [], []
        for file in files[start : start + batch_size]:
            try:
                tensors.append(transform(decode(file, str(file))))
            except InputError:
                if skipped is None:
                    raise
                skipped.append(file)
            else:
                some.append(file)
        if not some:
            continue
        images = torch.stack(tensors).to(device)
        with torch.inference_mode():
            best = network(images).float().softmax(1).topk(min(top, len(who.classes)))
        for file, values, indices in zip(
            some, best.values.tolist(), best.indices.tolist(), strict=True
        ):
            yield (
                file,
                [(who.classes[i], v) for i, v in zip(indices, values, strict=True)],
            )
