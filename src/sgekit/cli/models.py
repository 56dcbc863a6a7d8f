"""List the networks with SGE, with parameters and operations of one image.

Operations count the multiply-adds of convolutions and linear layers, and beside them every
other operation, among them SGE's mean, dot product, normalisation and gate, which the
counter behind the paper's GFLOPs leaves out.
"""

import argparse
from dataclasses import asdict
from typing import Literal

from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.errors import InputError
from sgekit.models import describe, list_models
from sgekit.models.contender import split

EXAMPLES = """examples:
  sgekit models
  sgekit models '*resnet50*' --attention none,sge,se
  sgekit models 'resnet26*' --every"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names (*)")
    parser.add_argument(
        "--attention",
        type=split,
        default=("none", "sge"),
        metavar="LIST",
        help="(none,sge)",
    )
    parser.add_argument(
        "--every", action="store_true", help="also timm's other networks with a place for attention"
    )
    shared.add_groups(parser)
    parser.add_argument("--image-size", type=int, metavar="INT", help="(each network's own)")
    output.add_out(parser)


def execute(options: argparse.Namespace) -> int:
    if options.image_size is not None:
        shared.positive(options.image_size, "--image-size")
    names = list_models(options.pattern, every=options.every)
    if not names:
        raise InputError(f"no network's name matches {options.pattern!r}; try: sgekit models")
    rows = [
        describe(name, attention, groups=options.groups, image_size=options.image_size)
        for name in track(
            names, description="counting", transient=True, console=Console(stderr=True)
        )
        for attention in options.attention
    ]
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption="one image of px × px; M = 10⁶, G = 10⁹; MACs: multiply-adds of convolutions "
        "and linear layers, as usually reported; other: every other operation; layers: what "
        "the attention layers take in all, SGE's mean, dot product, normalisation and gate "
        "included",
    )
    for heading in ("model", "attention", "px", "parameters", "MACs", "other", "layers"):
        side: Literal["left", "right"] = "left" if heading in ("model", "attention") else "right"
        table.add_column(heading, justify=side, no_wrap=True)
    for row in rows:
        count = row.operations
        table.add_row(
            row.name,
            row.attention,
            str(row.input_size[1]),
            f"{row.parameters:,}",
            f"{count.multiply_adds / 1e9:.3f} G",
            f"{count.other / 1e6:.1f} M",
            f"{count.attention / 1e6:.1f} M",
        )
    Console().print(table)
    output.write_results(options, "models", {"models": [asdict(row) for row in rows]})
    return 0
