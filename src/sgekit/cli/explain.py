"""What each group of a network looks at: figures, measures with intervals, a page to explore."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from sgekit.analysis.capture import watched
from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.errors import InputError
from sgekit.explanation.explained import MOST_SHOWN, Explanation, explain_data
from sgekit.explanation.gradcam import grad_cam, last_block
from sgekit.explanation.report import plain, write_explanation
from sgekit.explanation.sources import open_source
from sgekit.explanation.subject import Classifier, Detector, Subject, groups_of
from sgekit.explanation.tables import summary
from sgekit.training.checkpoint import DetectorIdentity, Identity, load_network
from sgekit.training.detection_run import load_detector
from sgekit.training.environment import environment
from sgekit.training.machine import resolve_device

EXAMPLES = """examples:
  sgekit explain --checkpoint runs/train/best.ckpt
  sgekit explain dog.jpg --checkpoint runs/photos/best.ckpt --layer layer3.5.se
  sgekit explain photos --checkpoint runs/photos/best.ckpt --images 40 --out runs/seen
  sgekit explain pets --checkpoint runs/photos/best.ckpt    (with trimaps and boxes of heads)

What is looked at: the built-in scenes; image files and folders; a data set of labelled images;
data with regions: scenes that `sgekit scenes` wrote, images/ with trimaps/ and annotations.json,
COCO JSON. With regions the groups are measured against them. A network without attention is
shown with the similarity that SGE would compute in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        nargs="*",
        metavar="IMAGE|DIR|DATA",
        help="images, folders or one data set (the built-in scenes)",
    )
    shared.add_checkpoint(parser)
    parser.add_argument(
        "--layer",
        action="append",
        default=[],
        metavar="NAME",
        help="look at this layer only; may be given several times, the first is drawn (all; drawn "
        "is the one with the most selective groups)",
    )
    parser.add_argument(
        "--groups",
        type=_numbers,
        default=(),
        metavar="INT,...",
        help="groups to draw (the most selective)",
    )
    parser.add_argument(
        "--top", type=int, default=4, metavar="INT", help="so many groups are drawn (4)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=24,
        metavar="INT",
        help=f"images that the page shows, at most {MOST_SHOWN} (24)",
    )
    parser.add_argument(
        "--limit", type=int, metavar="INT", help="look at so many images, evenly spread (all)"
    )
    parser.add_argument(
        "--no-stability",
        action="store_true",
        help="leave out noise, crops, look-alikes and other backgrounds (measured where the data "
        "have regions)",
    )
    parser.add_argument(
        "--grad-cam",
        action="store_true",
        help="draw Grad-CAM of the likeliest class beside; needs: pip install 'sgekit[explain]'",
    )
    parser.add_argument("--batch-size", type=int, default=32, metavar="INT", help="(32)")
    parser.add_argument(
        "--eval-split", metavar="NAME", help="split of a data set to look at, e.g. val or test"
    )
    parser.add_argument(
        "--skip-bad", action="store_true", help="count, name and leave out images that are none"
    )
    output.add_out(parser, "runs/explain")
    parser.add_argument(
        "--device", default="auto", metavar="NAME", help="auto, cpu, cuda or mps (auto)"
    )


def _numbers(text: str) -> tuple[int, ...]:
    """Groups between commas."""
    try:
        found = tuple(dict.fromkeys(int(part) for part in shared.comma_list(text)))
    except ValueError:
        found = (-1,)
    if not found or min(found) < 0:
        raise argparse.ArgumentTypeError(f"got {text!r}; groups are numbers from 0, as in 3,17")
    return found


def execute(options: argparse.Namespace) -> int:
    from sgekit.cli.detection import is_detectors

    shown = shared.positive(options.images, "--images")
    if shown > MOST_SHOWN:
        raise InputError(f"--images is at most {MOST_SHOWN}, got {shown}: the page would be slow")
    for name in ("top", "batch_size"):
        shared.positive(getattr(options, name), f"--{name.replace('_', '-')}")
    if options.limit is not None:
        shared.positive(options.limit, "--limit")
    device = resolve_device(options.device)
    who: Identity | DetectorIdentity
    subject: Subject
    if is_detectors(options.checkpoint):
        if options.grad_cam:
            raise InputError(f"--grad-cam is for classifiers; {options.checkpoint} is a detector")
        network, who = load_detector(options.checkpoint)
        subject = Detector(
            network,
            device,
            classes=who.classes,
            layers=options.layer or None,
            groups=groups_of(who),
        )
    else:
        network, who = load_network(options.checkpoint)
        subject = Classifier(
            network, device, who=who, layers=options.layer or None, groups=groups_of(who)
        )
    data = open_source(
        options.source, who.classes, eval_split=options.eval_split, skip_bad=options.skip_bad
    )
    out = output.out_dir(options)
    total = len(data.split) if options.limit is None else min(options.limit, len(data.split))
    with Progress(transient=True, console=Console(stderr=True)) as progress:
        task = progress.add_task("looking", total=total)
        found = explain_data(
            subject,
            data,
            images=options.limit,
            show=shown,
            batch_size=options.batch_size,
            disturb=not options.no_stability,
            skip_bad=options.skip_bad,
            progress=lambda images: progress.advance(task, images),
        )
    measured = environment(device)
    report = write_explanation(
        found,
        out,
        title=f"What the groups of {_name(who)} look at",
        details=_details(options, measured),
        layer=options.layer[0] if options.layer else None,
        groups=options.groups,
        top=options.top,
        extras=_extras(options, subject, found, device),
    )
    for sentence in summary(found):
        print(sentence)
    if found.seen.skipped:
        listed = "; ".join(found.seen.skipped[:3])
        print(f"left out {len(found.seen.skipped)} images that cannot be read: {listed}")
    print(f"report: {report}")
    content: dict[str, Any] = {
        "checkpoint": str(options.checkpoint),
        "network": who.plain(),
        "environment": measured,
        "report": report.name,
        **plain(found),
    }
    output.write_results(options, "explain", content)
    return 0


def _name(who: Identity | DetectorIdentity) -> str:
    base = f"{who.model} with {who.attention}" if who.attention != "none" else who.model
    return f"{who.detector} on {base}" if isinstance(who, DetectorIdentity) else base


def _details(options: argparse.Namespace, measured: dict[str, Any]) -> list[tuple[str, str]]:
    versions = ", ".join(f"{name} {measured[name]}" for name in ("torch", "timm"))
    return [
        ("command", output.command_line(options)),
        ("checkpoint", Path(options.checkpoint).name),
        ("versions", versions),
        ("device", str(measured["device"])),
        ("date", str(measured["date"])),
    ]


def _extras(
    options: argparse.Namespace, subject: Subject, found: Explanation, device: str
) -> list[Any]:
    if not options.grad_cam or not isinstance(subject, Classifier):
        return []
    inputs = [shown.inputs for shown in found.seen.shown]
    maps = grad_cam(
        subject.network, inputs, last_block(list(watched(subject.network, "all"))), device
    )
    return [("Grad-CAM", values) for values in maps]
