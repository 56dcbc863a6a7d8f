"""The GPU kernels: whether they are right, what they cost, and what whole networks cost.

    python benchmarks/gpu.py --out gpu.json               # everything, within ten minutes
    python benchmarks/gpu.py --parts errors kernels       # some of it
    python benchmarks/gpu.py --parts tiles                # other sizes of tiles and sets
    python benchmarks/gpu.py --rehearse --out try.json    # without a GPU, in the interpreter

trial      what the package finds out before its first call: whether it takes the kernels
errors     value and every gradient against float64, over shapes, layouts, types and inputs;
           everything twice, and how many numbers differ then
kernels    the share of the speed of copying, over what each call has to read and write, from
           CUDA graphs; and called from Python the formula, eager and compiled, and timm's SE,
           CBAM and ECA in the same rounds
networks   ResNet-50: training step, inference, eager and compiled, and peak memory
scaler     steps of ResNet-50 in fp16 with a GradScaler, with SGE and with the formula
tiles      not among everything: how fast the kernels are with sizes other than the package's

One round runs everything once, in a new order; a ratio is that of two times of the same round,
its median stands with its quartiles. The maps of the smallest shapes fit into a large cache, the
copy's as well as ours. Each part is a process of its own, and what it has done is written to --out
when it ends, also where it fails or hangs. At the end stands what was aimed at, and what was
found. The exit code is 1 where something failed, or numbers are wrong.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTS = ("trial", "errors", "kernels", "networks", "scaler", "tiles")
LIMITS = {"trial": 90, "errors": 300, "kernels": 300, "networks": 300, "scaler": 240, "tiles": 600}
"""Seconds, after which a part is taken for hanging."""
REHEARSED: dict[str, Any] = {"batch": 2, "model": "resnet18", "steps": 2, "rounds": 2}


def alone(options: argparse.Namespace, part: str, kept: Path) -> None:
    """One part, in this process; what each job gives is a line of `kept`."""
    import torch
    from gpu_kernels import Job, errors, kernel_costs, tiles, trial
    from gpu_networks import network_costs, scaler

    torch._dynamo.config.recompile_limit = 64
    jobs: dict[str, Callable[[argparse.Namespace], Iterator[Job]]] = {
        "trial": trial,
        "errors": errors,
        "kernels": kernel_costs,
        "networks": network_costs,
        "scaler": scaler,
        "tiles": tiles,
    }
    with kept.open("w", encoding="utf-8") as file:
        for label, job in jobs[part](options):
            print(f"{part}: {label}", flush=True)
            try:
                rows = job()
            except Exception as error:  # the other jobs may do
                traceback.print_exc()
                rows = [{"error": f"{type(error).__name__}: {error}"}]
            for row in rows:
                file.write(json.dumps({"job": label, **row}) + "\n")
            file.flush()


def run(options: argparse.Namespace, part: str, seconds: float) -> list[dict[str, Any]]:
    """The rows of one part, and one of what went wrong with it as a whole."""
    rehearsal = {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"} if options.rehearse else {}
    environment = os.environ | rehearsal
    own = [f"--{name}={getattr(options, name)}" for name in REHEARSED]
    own += ["--rehearse"] if options.rehearse else []
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "rows"
        command = [sys.executable, __file__, *own, "--alone", str(kept), "--parts", part]
        failure = None
        try:
            code = subprocess.run(command, timeout=seconds, env=environment, check=False).returncode
            failure = f"ended with {code}" if code else None
        except subprocess.TimeoutExpired:
            failure = f"took more than {seconds:.0f} s"
        lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    rows = [{"part": part, **json.loads(line)} for line in lines if line.endswith("}")]
    return rows + ([{"part": part, "error": failure}] if failure else [])


def main() -> int:
    from common import arguments, keep
    from gpu_targets import table

    parser = arguments(__doc__, 15)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS)[:-1])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--steps", type=int, default=1000, help="of the part scaler")
    parser.add_argument("--minutes", type=float, default=60, help="for everything")
    parser.add_argument("--rehearse", action="store_true", help="whether the script works")
    parser.add_argument("--alone", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rehearse:
        vars(options).update(REHEARSED)
    if options.alone:
        alone(options, options.parts[0], options.alone)
        return 0

    import torch
    import triton

    if not torch.cuda.is_available() and not options.rehearse:
        parser.error("this needs a GPU; --rehearse tries the script without one")
    device = "none, a rehearsal" if options.rehearse else torch.cuda.get_device_name()
    end = time.perf_counter() + 60 * options.minutes
    found: list[dict[str, Any]] = []
    seconds: dict[str, float] = {}
    targets: list[dict[str, Any]] = []
    for part in options.parts:
        began = time.perf_counter()
        limit = min(10 * LIMITS[part] if options.rehearse else LIMITS[part], end - began)
        rows = run(options, part, limit) if limit > 1 else [{"part": part, "error": "no time left"}]
        found += rows
        seconds[part] = round(time.perf_counter() - began, 1)
        print(f"{part}: {seconds[part]:.0f} s", flush=True)
        targets = [] if options.rehearse else table(found)
        keep(
            options, found, device=device, batch=options.batch, model=options.model,
            triton=triton.__version__, seconds=seconds, targets=targets,
        )  # fmt: skip
    for target in targets:
        print("{what}: {wanted} wanted, {measured}: {met}".format(**target))
    failed = [row for row in found if "error" in row]
    for row in failed:
        print(f"failed: {row['part']}: {row.get('job', '')} {row['error']}")
    wrong = any(target["numbers"] and target["met"] == "missed" for target in targets)
    return 1 if failed or wrong else 0


if __name__ == "__main__":
    sys.exit(main())
