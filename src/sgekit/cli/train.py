"""Train one network; the last and the best checkpoint, logs and results.json go to --out."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.training.results import describe
from sgekit.training.run import run
from sgekit.training.settings import RunSettings

EXAMPLES = """examples:
  sgekit train --data photos --model resnet50 --attention sge --out runs/photos
  sgekit train --data imagenet --model resnet50 --recipe imagenet-resnet --precision bf16
  torchrun --nproc-per-node=8 -m sgekit train --data imagenet --model resnet50 \\
      --recipe imagenet-resnet --out runs/imagenet
  sgekit train --data photos --model resnet50 --attention sge --out runs/photos --resume
      goes on with the first example's run
  sgekit train --data cells --detector faster_rcnn --model resnet50 --attention sge \\
      --pretrained --out runs/cells
      a detector, on a folder with COCO JSON"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"({shared.SCENES_MODEL} on the scenes, {shared.DATA_MODEL} on --data)",
    )
    parser.add_argument("--attention", default="sge", metavar="NAME", help="(sge)")
    shared.add_groups(parser)
    shared.add_start(parser)
    parser.add_argument("--seed", type=shared.seed, default=0, metavar="INT", help="(0)")
    output.add_out(parser, "runs/train")
    parser.add_argument("--resume", action="store_true", help="go on with the run in --out")
    shared.add_data(parser)
    shared.add_recipe(parser)
    shared.add_detector(parser)
    shared.add_machine(parser)


def execute(options: argparse.Namespace) -> int:
    shared.check_groups(options.groups, [options.attention])
    if options.resume and not (Path(options.out) / "last.ckpt").exists():
        print(f"{options.out} holds no run yet: beginning anew", file=sys.stderr)
    if shared.wants_detection(options):
        from sgekit.cli import detection

        return detection.train(options)
    recipe = shared.recipe_from(options)  # its errors first: data may take long
    data = shared.open_from(options)
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
        checkpoint=Path(options.init) if options.init else None,
        label=f"{options.attention} · seed {options.seed}",
    )
    result = run(settings, data, Console(stderr=True))
    if os.environ.get("RANK", "0") == "0":
        print(
            f"top-1 {100 * result.top1:.2f} %, top-5 {100 * result.top5:.2f} % on {data.val_name} "
            f"after {result.epochs} epochs (best: {100 * result.best_top1:.2f} % at "
            f"{result.best_epoch}); {result.train_images_per_s:,.0f} images/s"
        )
        print(f"checkpoint: {settings.out / 'last.ckpt'}")
        output.write_results(options, "train", describe(settings, data, result))
    return 0
