"""Turn a checkpoint of another project, or of a training run, into safetensors.

Reads the released .pth.tar files of the paper's authors, their detectors' backbones,
torchvision's and timm's weights, and a run's .ckpt; tells what it is, fits it to the network
of that name here, and writes the weights and what they are of.
"""

import argparse
from pathlib import Path

from sgekit.cli import output
from sgekit.errors import InputError
from sgekit.models.checkpoints import (
    OWN,
    describe,
    identify,
    load_contents,
    read_weights,
    rebuild,
    save_checkpoint,
)

EXAMPLES = """examples:
  sgekit convert sge_resnet50.pth.tar sge_resnet50.safetensors
  sgekit convert sge_resnet50.pth.tar --dry-run
      says what the file is and whether it fits, and writes nothing
  sgekit convert runs/photos/best.ckpt photos.safetensors
  sgekit convert weights.pth photos.safetensors --model efficientnet_b0 --classes names.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", metavar="IN", help="checkpoint file")
    parser.add_argument("target", nargs="?", metavar="OUT", help="a .safetensors file")
    parser.add_argument("--dry-run", action="store_true", help="only tell; OUT may be left out")
    parser.add_argument(
        "--model", metavar="NAME", help="timm's name of the network (told from the weights)"
    )
    parser.add_argument(
        "--classes",
        metavar="FILE",
        help="a file with a class name a line, or imagenet-1k (released files: imagenet-1k; "
        "others: the numbers from 0)",
    )
    output.add_out(parser)


def execute(options: argparse.Namespace) -> int:
    source = Path(options.input)
    target = Path(options.target) if options.target else None
    if target is None and not options.dry_run:
        raise InputError("OUT is missing: name a .safetensors file, or ask with --dry-run only")
    if target is not None and target.exists() and target.resolve() == source.resolve():
        raise InputError(f"{target} is the input; write to another file")
    contents = read_weights(source)
    if "detector" in (contents.identity or {}):
        raise InputError(
            f"{source} is a detector's run, whose .ckpt is used as it is; convert takes "
            "classification networks"
        )
    print(f"{source}: {describe(contents)}")
    metadata = identify(contents, model=options.model, classes=options.classes)
    network = rebuild(metadata)
    loaded = load_contents(network, contents)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    attention = "" if metadata.attention == OWN else f", attention {metadata.attention}"
    fits = f"model {metadata.model}{attention}: {parameters:,} parameters"
    if target is None or options.dry_run:
        print(f"fits {fits}")
    else:
        save_checkpoint(network, target, metadata)
        print(f"wrote {target}, {fits}")
    if loaded.preserved:
        print("the file has no attention: its layers are fresh, set to change nothing yet")
    content = {
        "input": str(source),
        "output": None if target is None or options.dry_run else str(target),
        "kind": loaded.kind,
        "looks_like": loaded.network,
        "parameters": parameters,
        "metadata": metadata.plain(),
        "loaded": len(loaded.loaded),
        "left": list(loaded.left),
        "notes": loaded.notes,
    }
    output.write_results(options, "convert", content)
    return 0
