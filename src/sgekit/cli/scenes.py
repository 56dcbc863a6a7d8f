"""Write the built-in scenes as an image folder with COCO annotations and part masks."""

import argparse
from dataclasses import asdict, replace

from rich.console import Console
from rich.progress import Progress

from sgekit.cli import output
from sgekit.data import SceneConfig, write_scenes

EXAMPLES = """examples:
  sgekit scenes --out scenes
  sgekit scenes --out large --image-size 128 --train 500 --val 200 --seed 7"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = SceneConfig()
    output.add_out(parser, "scenes")
    for name, text in (
        ("image_size", "pixels a side"),
        ("train", "training scenes"),
        ("val", "validation scenes"),
        ("seed", "everything is drawn from it"),
        ("distractors", "look-alikes a scene"),
    ):
        value = getattr(default, name)
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=int,
            default=value,
            metavar="INT",
            help=f"{text} ({value})",
        )
    parser.add_argument(
        "--noise",
        type=float,
        default=default.noise,
        metavar="FLOAT",
        help=f"largest change of a pixel by noise, 1 is black to white ({default.noise})",
    )


def execute(options: argparse.Namespace) -> int:
    names = ("image_size", "train", "val", "seed", "distractors", "noise")
    config = replace(SceneConfig(), **{name: getattr(options, name) for name in names})
    out = output.out_dir(options)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("drawing", total=None)
        write_scenes(
            config, out, progress=lambda done, of: bar.update(task, completed=done, total=of)
        )
    print(f"{config.train} training and {config.val} validation scenes: {out}")
    output.write_results(options, "scenes", {"config": asdict(config)})
    return 0
