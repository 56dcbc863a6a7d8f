"""Evaluate a checkpoint: top-1, top-5, loss, accuracy of every class; AP of a detector."""

import argparse
from dataclasses import asdict
from pathlib import Path

from sgekit.cli import options as shared
from sgekit.cli import output
from sgekit.training.checkpoint import load_network
from sgekit.training.environment import environment
from sgekit.training.evaluate import evaluate
from sgekit.training.machine import default_workers, resolve_device

EXAMPLES = """examples:
  sgekit val --checkpoint runs/train/best.ckpt
  sgekit val --checkpoint runs/photos/last.ckpt --data photos --eval-split test --out runs/eval"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_checkpoint(parser)
    parser.add_argument("--batch-size", type=int, default=64, metavar="INT", help="(64)")
    output.add_out(parser, "runs/val")
    shared.add_data(parser)
    shared.add_machine(parser)


def execute(options: argparse.Namespace) -> int:
    from sgekit.cli import detection

    if detection.is_detectors(options.checkpoint):
        return detection.val(options)
    network, who = load_network(options.checkpoint)
    data = shared.open_from(options)
    device = resolve_device(options.device)
    workers = default_workers(options.device) if options.workers is None else options.workers
    found = evaluate(
        network,
        who,
        data,
        device,
        batch_size=shared.positive(options.batch_size, "--batch-size"),
        workers=workers,
        progress=True,
    )
    content = {
        "checkpoint": str(options.checkpoint),
        "network": who.plain(),
        "data": {
            "name": data.name,
            "split": data.val_name,
            "skipped": len(data.skipped),
        },
        "environment": environment(device),
        "result": asdict(found),
    }
    worst = sorted((v, k) for k, v in found.per_class.items() if v is not None)[:3]
    print(
        f"{Path(options.checkpoint).name}: top-1 {100 * found.top1:.2f} %, top-5 "
        f"{100 * found.top5:.2f} %, loss {found.loss:.4f} on {found.images} images "
        f"({data.val_name})"
    )
    print("hardest classes: " + ", ".join(f"{name} {100 * value:.0f} %" for value, name in worst))
    output.write_results(options, "val", content)
    return 0
