"""What `predict` does with detectors: on images, on a video, on a camera."""

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor, nn

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.data.decode import decode
from sgekit.data.video import VideoReader, VideoWriter, is_video
from sgekit.detection.drawing import draw_detections
from sgekit.detection.evaluation import encode_masks
from sgekit.errors import InputError
from sgekit.files import write_atomic
from sgekit.training.checkpoint import DetectorIdentity
from sgekit.training.detection_loaders import to_tensor
from sgekit.training.detection_run import load_detector
from sgekit.training.evaluate import find_images
from sgekit.training.machine import resolve_device

Objects = dict[str, Tensor]
Name = TypeVar("Name")


@dataclass
class Found:
    """What was found so far, in COCO's form."""

    threshold: float
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def add(self, picture: Image.Image, objects: Objects, **entry: Any) -> dict[str, Any]:
        """Note one picture; returns its entry, which may be added to."""
        number = len(self.images)
        size = {"width": picture.width, "height": picture.height}
        self.images.append({"id": number, **entry, **size})
        first = len(self.annotations) + 1
        results = coco_results(number, objects)
        self.annotations += [{"id": n, **one} for n, one in enumerate(results, first)]
        return self.images[-1]


def predict(options: argparse.Namespace) -> int:
    """Find objects: pictures or a video with boxes and masks drawn, JSON in COCO's form."""
    detector, who = load_detector(options.checkpoint)
    videos = [source for source in options.images if is_video(source)]
    if videos and len(options.images) > 1:
        raise InputError(
            f"{videos[0]} is a video or camera and goes alone, but {len(options.images)} sources "
            "are named"
        )
    threshold = 0.5 if options.threshold is None else options.threshold
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold must lie between 0 and 1, got {threshold}")
    size = shared.positive(options.batch_size, "--batch-size")
    device = resolve_device(options.device)
    detector.to(device).eval()
    found, skipped = Found(threshold), list[Path]()
    if videos:
        with VideoReader(videos[0]) as video:
            out = output.out_dir(options)
            on_video(detector, who, video, found, out, options, 1 if video.camera else size)
    else:
        files = find_images(options.images)
        out = output.out_dir(options)
        on_files(detector, who, files, found, skipped, out, options, size)
    content = {
        "images": found.images,
        "annotations": found.annotations,
        "categories": [{"id": n, "name": name} for n, name in enumerate(who.classes, 1)],
    }
    write_atomic(out / "detections.json", json.dumps(content).encode())
    output.write_results(
        options,
        "predict",
        {
            "checkpoint": options.checkpoint,
            "network": who.plain(),
            "threshold": threshold,
            "images": len(found.images),
            "objects": len(found.annotations),
            "detections": "detections.json",
            "skipped": [str(file) for file in skipped],
        },
    )
    return 0


def on_files(
    detector: nn.Module,
    who: DetectorIdentity,
    files: Sequence[Path],
    found: Found,
    skipped: list[Path],
    out: Path,
    options: argparse.Namespace,
    batch_size: int,
) -> None:
    """Find objects in image files; each is drawn into a PNG."""

    def pictures() -> Iterator[tuple[Path, Image.Image]]:
        for file in track(files, description="predicting"):
            try:
                picture = decode(file, str(file))
            except InputError:
                if not options.skip_bad:
                    raise
                skipped.append(file)
            else:
                yield file, picture

    for file, picture, objects in detected(detector, pictures(), found.threshold, batch_size):
        entry = found.add(picture, objects, file_name=str(file))
        if not options.no_pictures:
            # Numbered, because files of different folders may share a name.
            target = out / f"{entry['id']:05}-{shared.short(file.stem)}.png"
            draw_detections(picture, objects, who.classes, threshold=found.threshold).save(target)
            entry["picture"] = target.name
        print(f"{file}: {counted(objects, who)}")
    if skipped and not found.images:
        raise InputError(
            f"none of {len(files)} files is an image that can be read, beginning with {files[0]}; "
            "name other images or folders"
        )
    if skipped:
        print(f"left out {len(skipped)} files that cannot be read: {', '.join(map(str, skipped))}")


def on_video(
    detector: nn.Module,
    who: DetectorIdentity,
    video: VideoReader,
    found: Found,
    out: Path,
    options: argparse.Namespace,
    batch_size: int,
) -> None:
    """Find objects in every frame; they are drawn into one video. Ctrl-C ends it in good order."""
    wanted = None if options.frames is None else shared.positive(options.frames, "--frames")
    known = [count for count in (video.count, wanted) if count is not None]
    total = min(known) if known else None
    name = f"camera-{video.source}" if video.camera else shared.short(Path(video.source).stem)
    frames = track(islice(video, wanted), total=total, description="predicting")
    numbered = enumerate(frames)
    with ExitStack() as stack:
        writer = None
        if not options.no_pictures:
            writer = stack.enter_context(VideoWriter(out / f"{name}.mp4", video.fps))
        try:
            for number, picture, objects in detected(
                detector, numbered, found.threshold, batch_size
            ):
                seconds = round(number / video.fps, 4)
                found.add(picture, objects, file_name=video.source, frame=number, seconds=seconds)
                if writer is not None:
                    drawn = draw_detections(
                        picture, objects, who.classes, threshold=found.threshold
                    )
                    writer.write(drawn)
        except KeyboardInterrupt:
            print("stopped; what was found so far is kept")
    if not found.images:
        raise InputError(f"{video.source} has no frame that can be decoded")
    short = "" if total is None or len(found.images) >= total else f" of {total} that it tells of"
    print(f"{video.source}: {len(found.images)} frames{short}, {len(found.annotations)} objects")
    if writer is not None:
        print(f"video: {writer.path}")


def detected(
    detector: nn.Module,
    pictures: Iterable[tuple[Name, Image.Image]],
    threshold: float,
    batch_size: int,
) -> Iterator[tuple[Name, Image.Image, Objects]]:
    """Each picture with the objects in it that score at least `threshold`, on the CPU."""
    device = next(detector.parameters()).device
    left = iter(pictures)
    while batch := list(islice(left, batch_size)):
        with torch.inference_mode():
            results = detector([to_tensor(picture).to(device) for _, picture in batch])
        for (name, picture), result in zip(batch, results, strict=True):
            objects = {key: value.float().cpu() for key, value in result.items()}
            keep = objects["scores"] >= threshold
            yield name, picture, {key: value[keep] for key, value in objects.items()}


def counted(objects: Objects, who: DetectorIdentity) -> str:
    """Such as "2 dog, 1 cat"."""
    names = [who.classes[int(label) - 1] for label in objects["labels"]]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "nothing"


def coco_results(image_id: int, prediction: Objects) -> list[dict[str, Any]]:
    """One image's detections in COCO's form: boxes as x, y, width, height, masks as run lengths."""
    boxes = prediction["boxes"]
    sizes = boxes[:, 2:] - boxes[:, :2]
    entries: list[dict[str, Any]] = [
        {
            "image_id": image_id,
            "category_id": int(label),
            "bbox": [round(value, 2) for value in (*box[:2], *size)],
            "score": round(score, 5),
        }
        for box, size, label, score in zip(
            boxes.tolist(),
            sizes.tolist(),
            prediction["labels"].tolist(),
            prediction["scores"].tolist(),
            strict=True,
        )
    ]
    if "masks" in prediction:
        for entry, coded in zip(entries, encode_masks(prediction["masks"]), strict=True):
            entry["segmentation"] = {**coded, "counts": coded["counts"].decode("ascii")}
    return entries
