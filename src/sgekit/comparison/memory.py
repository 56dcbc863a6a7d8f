"""Peak memory of a training step.

On CUDA it is what torch's allocator held at most. On a CPU it is by how much the process
grew over its size with the network built, which only a fresh process can tell: memory that
an earlier network freed would hide the growth. So this file is also a program.
"""

import json
import resource
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import torch

from sgekit.comparison.cost import Load, training_step
from sgekit.errors import InputError
from sgekit.models import build


def peak_memory(
    model: str,
    attention: str,
    groups: int | str | None,
    load: Load,
    extra: dict[str, Any],
) -> int:
    """Bytes of one training step above the network's own; ``extra`` goes to ``build``.

    Raises InputError where the measuring process fails, with its last line.
    """
    task = {
        "model": model,
        "attention": attention,
        "groups": groups,
        "load": asdict(load),
    }
    child = subprocess.run(
        [sys.executable, "-m", "sgekit.comparison.memory"],
        input=json.dumps(task | {"extra": extra}),
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"the peak memory of {attention} could not be measured: {lines[-1]}")
    return int(json.loads(child.stdout.strip().splitlines()[-1])["bytes"])


def _resident_peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _measure(task: dict[str, Any]) -> int:
    load = Load(**task["load"])
    network = load.place(
        build(
            task["model"],
            task["attention"],
            groups=task["groups"],
            num_classes=load.num_classes,
            **task["extra"],
        )
    )
    # A tiny step first, so that loading the kernels' libraries does not count.
    small = Load(**{**task["load"], "batch_size": 2})
    training_step(network, small)()
    if load.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training_step(network, load)()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _resident_peak()
    training_step(network, load)()
    return _resident_peak() - before


if __name__ == "__main__":
    print(json.dumps({"bytes": _measure(json.load(sys.stdin))}))
