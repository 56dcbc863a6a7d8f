"""Label images, or find objects in them: pictures with the labels or objects drawn, and JSON."""

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from rich.progress import track

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.data.decode import decode
from sgekit.data.video import is_video
from sgekit.errors import InputError
from sgekit.training.checkpoint import load_network
from sgekit.training.evaluate import find_images, predict
from sgekit.training.machine import resolve_device

EXAMPLES = """examples:
  sgekit predict cat.jpg --checkpoint runs/photos/best.ckpt
  sgekit predict holiday/ --checkpoint runs/photos/best.ckpt --top 3 --out labelled
  sgekit predict clip.mp4 --checkpoint runs/cells/best.ckpt --threshold 0.6
  sgekit predict 0 --frames 300 --checkpoint runs/cells/best.ckpt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE|DIR|VIDEO",
        help="image files or folders; for a detector also one video file or camera's index",
    )
    shared.add_checkpoint(parser)
    parser.add_argument(
        "--top", type=int, metavar="INT", help="classes that a classifier tells (5)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        metavar="FLOAT",
        help="least score of an object that a detector finds (0.5)",
    )
    parser.add_argument(
        "--frames", type=int, metavar="INT", help="of a video or camera, at most (all)"
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="INT", help="(32)")
    parser.add_argument("--no-pictures", action="store_true", help="write results.json only")
    parser.add_argument(
        "--skip-bad", action="store_true", help="count, name and leave out files that are no images"
    )
    output.add_out(parser, "runs/predict")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (auto)"
    )


def draw(file: Path, labels: list[tuple[str, float]]) -> Image.Image:
    """The picture with its likeliest classes on a band below it."""
    picture = decode(file, str(file))
    if picture.width < 240:
        factor = -(-240 // picture.width)
        picture = picture.resize(
            (picture.width * factor, picture.height * factor), Image.Resampling.NEAREST
        )
    size = max(14, picture.width // 30)
    font = ImageFont.load_default(size)
    line = round(1.4 * size)
    canvas = Image.new(
        "RGB", (picture.width, picture.height + line * len(labels) + size // 2), "white"
    )
    canvas.paste(picture, (0, 0))
    pen = ImageDraw.Draw(canvas)
    for row, (name, share) in enumerate(labels):
        top = picture.height + size // 4 + row * line
        pen.rectangle((0, top, round(picture.width * share), top + line - 2), fill="#cfe3f5")
        pen.text((size // 2, top), f"{100 * share:.1f} %  {name}", fill="black", font=font)
    return canvas


def execute(options: argparse.Namespace) -> int:
    from sgekit.cli import detection, detection_predict

    if detection.is_detectors(options.checkpoint):
        if options.top is not None:
            raise InputError(f"--top is for classifiers; {options.checkpoint} is a detector")
        return detection_predict.predict(options)
    if videos := [source for source in options.images if is_video(source)]:
        raise InputError(
            f"{videos[0]} is a video or camera, which only a detector takes; "
            f"{options.checkpoint} is a classifier"
        )
    if options.threshold is not None or options.frames is not None:
        given = "--threshold" if options.threshold is not None else "--frames"
        raise InputError(f"{given} is for detectors; {options.checkpoint} is a classifier")
    network, who = load_network(options.checkpoint)
    files = find_images(options.images)
    out = output.out_dir(options)
    skipped: list[Path] = []
    found = predict(
        network,
        who,
        files,
        resolve_device(options.device),
        top=shared.positive(5 if options.top is None else options.top, "--top"),
        batch_size=shared.positive(options.batch_size, "--batch-size"),
        skipped=skipped if options.skip_bad else None,
    )
    entries = []
    for number, (file, labels) in enumerate(
        track(found, total=len(files), description="predicting")
    ):
        print(f"{file}: " + ", ".join(f"{name} {100 * share:.1f} %" for name, share in labels[:3]))
        entry = {
            "file": str(file),
            "labels": [{"class": n, "probability": p} for n, p in labels],
        }
        if not options.no_pictures:
            # Numbered, because files of different folders may share a name.
            target = out / f"{number:05}-{shared.short(file.stem)}.png"
            draw(file, labels).save(target)
            entry["picture"] = target.name
        entries.append(entry)
    if skipped and not entries:
        raise InputError(
            f"none of {len(files)} files is an image that can be read, beginning with {files[0]}; "
            "name other images or folders"
        )
    if skipped:
        names = ", ".join(map(str, skipped))
        print(f"left out {len(skipped)} files that cannot be read: {names}")
    content = {
        "checkpoint": options.checkpoint,
        "network": who.plain(),
        "images": entries,
        "skipped": [str(file) for file in skipped],
    }
    output.write_results(options, "predict", content)
    return 0
