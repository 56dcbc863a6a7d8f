"""Which pictures the report shows: validation images with the trained SGE network's gates."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from sgekit.analysis import Example
from sgekit.analysis import gate_examples as examples_of
from sgekit.comparison.plan import Plan
from sgekit.data import ImageData
from sgekit.data.detection import DetectionData, DetectionSplit, Target
from sgekit.detection.drawing import COLOURS
from sgekit.detection.gates import detector_gate_examples
from sgekit.errors import InputError
from sgekit.explanation.explained import evenly
from sgekit.models.contender import first_of
from sgekit.training.checkpoint import load_network
from sgekit.training.detection_loaders import to_tensor
from sgekit.training.detection_run import load_detector
from sgekit.training.loaders import eval_transform, to_picture

COUNT = 6
# The longer side of a picture with boxes: large enough to be sharp in the figure.
_SIDE = 400


def gate_examples(
    plan: Plan, data: ImageData | DetectionData, out: Path, device: str
) -> list[Example]:
    """Images spread evenly over the evaluation split, with the first seed's SGE network's gates.

    Of several contenders with SGE, the first that has run; empty where none has. A detector's are
    images with objects, where there are any, and their annotated boxes are drawn.
    """
    ended = [run for run in plan.runs(out) if (run.out / "run.json").exists()]
    shown = first_of("sge", (run.attention for run in ended))
    if shown is None:
        return []
    run = next(run for run in ended if run.attention == shown)
    checkpoint = run.out / "last.ckpt"
    if not checkpoint.exists():
        raise InputError(f"{checkpoint} is gone; delete {run.out} to train this run again")
    if isinstance(data, DetectionData):
        return _of_detector(checkpoint, data, device)
    return _of_classifier(checkpoint, data, device)


def _of_classifier(checkpoint: Path, data: ImageData, device: str) -> list[Example]:
    network, who = load_network(checkpoint)
    transform = eval_transform(who.image_size, who.eval_crop, who.interpolation)
    loaded = [data.val[index] for index in _spread(range(len(data.val)))]
    inputs = torch.stack([transform(image) for image, _ in loaded]).to(device)
    network.to(device)
    with torch.inference_mode():
        guesses = network(inputs).argmax(1).tolist()
    titles = [
        f"{who.classes[label]}, seen as {who.classes[guess]}"
        for (_, label), guess in zip(loaded, guesses, strict=True)
    ]
    return examples_of(network, inputs, [to_picture(image) for image in inputs], titles)


def _of_detector(checkpoint: Path, data: DetectionData, device: str) -> list[Example]:
    detector, who = load_detector(checkpoint)
    indices = _spread(_with_objects(data.val) or range(len(data.val)))
    loaded = [data.val[index] for index in indices]
    return detector_gate_examples(
        detector.to(device),
        [to_tensor(image).to(device) for image, _ in loaded],
        [_outlined(image, target) for image, target in loaded],
        [
            f"{short_source(data.val, index)}: {counted(target.labels.tolist(), who.classes)}"
            for index, (_, target) in zip(indices, loaded, strict=True)
        ],
    )


def counted(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Objects in words, in the order of their classes: "2 × cup, plate", or "nothing"."""
    numbers = {label: labels.count(label) for label in sorted(set(labels))}
    names = [f"{n} × {classes[k - 1]}" if n > 1 else classes[k - 1] for k, n in numbers.items()]
    return ", ".join(names) or "nothing"


def short_source(split: DetectionSplit, index: int) -> str:
    """Where an image is from, of a file its folder and name: a report may be read elsewhere."""
    return "/".join(Path(split.source(index)).parts[-2:])


def _spread(indices: Sequence[int]) -> list[int]:
    return [indices[place] for place in evenly(len(indices), min(COUNT, len(indices)))]


def _with_objects(split: DetectionSplit) -> list[int]:
    ids = {int(note["image_id"]) for note in split.ground_truth()["annotations"]}
    return [index for index in range(len(split)) if split.image_id(index) in ids]


def _outlined(image: Image.Image, target: Target) -> Image.Image:
    """The picture with the boxes alone: beside maps there is no room for words."""
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    drawn = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(drawn)
    for box, label in zip(target.boxes.tolist(), target.labels.tolist(), strict=True):
        x0, y0, x1, y1 = (side * scale for side in box)
        # A dark rim, so that a bright line is seen on a bright picture.
        pen.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline="black", width=8)
        if x1 - x0 > 4 and y1 - y0 > 4:
            colour = COLOURS[(label - 1) % len(COLOURS)]
            pen.rectangle((x0 + 1, y0 + 1, x1 - 1, y1 - 1), outline=colour, width=4)
    return drawn
