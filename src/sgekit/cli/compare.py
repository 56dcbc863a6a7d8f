"""Train the same network with and without attention, with the same seeds, and report."""

import argparse
from pathlib import Path

from rich.console import Console

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.comparison.compare import check, compare
from sgekit.comparison.plan import Plan
from sgekit.comparison.sweep import parse_sweep
from sgekit.comparison.tables import terminal_table
from sgekit.errors import InputError
from sgekit.models.contender import split

EXAMPLES = """examples:
  sgekit compare
      the built-in scenes, a small residual network, none against sge, three seeds
  sgekit compare --data photos --model resnet18 --attention none,sge,se --seeds 0,1,2
      your own images, three contenders
  sgekit compare --data photos --recipe finetune --model resnet50 --pretrained
      starting from ImageNet weights
  sgekit compare --attention none,sge,'sge(normalize=false)'
      options of an attention stand in parentheses
  sgekit compare --data cells --detector faster_rcnn --model resnet50 --pretrained
      a detector, on a folder with COCO JSON
  sgekit compare --sweep groups=8,16,32
      one contender for each value, and a figure of accuracy against it
  sgekit compare --sweep weight_init,bias_init=0:0,0:1,1:0,1:1
      options that vary together

Stop it at any time: the same command goes on from there. More seeds or contenders in the
same --out are added to what is there."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attention",
        type=split,
        default=("none", "sge"),
        metavar="LIST",
        help="contenders, with options as in sge(groups=8); the plain network is none (none,sge)",
    )
    parser.add_argument(
        "--sweep",
        action="append",
        default=[],
        metavar="OPTION=LIST",
        help="vary an option of the one --attention (sge) against none; A,B=1:2,3:4 varies two",
    )
    parser.add_argument(
        "--seeds",
        type=shared.comma_numbers,
        default=(0, 1, 2),
        metavar="LIST",
        help="(0,1,2)",
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help=f"({shared.SCENES_MODEL} on the scenes, {shared.DATA_MODEL} on --data)",
    )
    shared.add_groups(parser)
    shared.add_start(parser)
    parser.add_argument("--out", metavar="DIR", help="(runs/compare-DATA-MODEL-DIGEST)")
    shared.add_data(parser)
    shared.add_recipe(parser)
    shared.add_detector(parser)
    shared.add_machine(parser)


def execute(options: argparse.Namespace) -> int:
    if len(options.sweep) > 1:
        raise InputError("--sweep is given twice; options vary together as in A,B=1:2,3:4")
    shared.check_groups(options.groups, options.attention)
    sweep = parse_sweep(options.sweep[0], options.attention) if options.sweep else None
    detects = shared.wants_detection(options)
    plan = Plan(
        model=shared.default_model(options),
        attention=("none", *sweep.contenders) if sweep else options.attention,
        seeds=options.seeds,
        recipe=shared.detection_recipe_from(options) if detects else shared.recipe_from(options),
        groups=options.groups,
        pretrained=options.pretrained,
        workers=options.workers,
        device=options.device,
        detector=(options.detector or "faster_rcnn") if detects else None,
        fpn_attention=options.fpn_attention,
        checkpoint=Path(options.init) if options.init else None,
        sweep=sweep,
    )
    check(plan)
    out = output.out_dir(options) if options.out else None
    results, report = compare(
        plan,
        shared.open_boxes_from(options) if detects else shared.open_from(options),
        path=options.data,
        out=out,
        command=output.command_line(options),
        console=Console(stderr=True),
    )
    console = Console()
    console.print(terminal_table(results))
    console.print(results["conclusion"], highlight=False)
    print(f"report: {Path(report)}")
    return 0
