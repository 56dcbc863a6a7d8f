"""Peak memory of a training step.

On CUDA it is what torch's allocator held at most. On a CPU it is by how much the process
grew over its size with the network built, which only a fresh process can tell: memory that
an earlier network freed would hide the growth. So this file is also a program.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
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
) -> int | None:
    """Bytes of one training step above the network's own; ``extra`` goes to ``build``.

    None where nothing tells it: on Windows, and on devices other than CPU and CUDA.
    Raises InputError where the measuring process fails, with its last line.
    """
    if load.device not in ("cpu", "cuda") or sys.platform == "win32":
        return None
    task = {
        "model": model,
        "attention": attention,
        "groups": groups,
        "load": asdict(load),
    }
    child = subprocess.run(
        [sys.executable, "-m", "sgekit.comparison.memory"],
        input=json.dumps(task | {"extra": extra}),
        # glibc gives freed tensors back at once, so that the figure repeats.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.strip().splitlines() or ["no message"]
        raise InputError(f"the peak memory of {attention} could not be measured: {lines[-1]}")
    return int(json.loads(child.stdout.strip().splitlines()[-1])["bytes"])


def _status(field: str) -> int:
    """Bytes of a line of /proc/self/status, such as VmRSS (now) or VmHWM (at most so far)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise InputError(f"/proc/self/status has no {field}; peak memory cannot be measured here")


def _grown_by(step: Callable[[], None]) -> int:
    """By how many bytes the process exceeds its size while ``step`` runs."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        before = _status("VmRSS")
        reset.write_text("5")  # Linux: forget the peak so far
        step()
        return _status("VmHWM") - before
    import resource  # not on Windows

    # Elsewhere only the peak since the start is known, in bytes on macOS.
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


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
    return _grown_by(training_step(network, load))


if __name__ == "__main__":
    print(json.dumps({"bytes": _measure(json.load(sys.stdin))}))
