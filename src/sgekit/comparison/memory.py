"""Peak memory of a training step.

On CUDA it is what torch's allocator held at most. On a CPU it is by how much the process
grew over its size with the network built, which only a fresh process can tell: memory that
an earlier network freed would hide the growth. So this file is also a program.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sgekit.errors import InputError

Step = Callable[[nn.Module, Any], Callable[[], None]]
"""From a network and a load to a function that takes a training step."""


def peak_memory(name: str, build: Callable[[], nn.Module], load: Any, training: Step) -> int | None:
    """Bytes of one training step above the network's own; `name` is for messages.

    `build` and `training` are pickled: functions of modules, or partials of such. `load` is a
    `Load` or a `DetectorLoad`. None where nothing tells it: on Windows, and on devices other
    than CPU and CUDA. Raises InputError where the measuring process fails, with its last line.
    """
    if load.device not in ("cpu", "cuda") or sys.platform == "win32":
        return None
    child = subprocess.run(
        [sys.executable, "-m", "sgekit.comparison.memory"],
        input=pickle.dumps((build, load, training)),
        # glibc gives freed tensors back at once, so that the figure repeats.
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        check=False,
    )
    if child.returncode:
        lines = child.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        raise InputError(f"the peak memory of {name} could not be measured: {lines[-1]}")
    return int(child.stdout.split()[-1])


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


def _measure(build: Callable[[], nn.Module], load: Any, training: Step) -> int:
    network = load.place(build())
    # A smaller step first, so that loading the kernels' libraries does not count.
    training(network, replace(load, batch_size=min(2, load.batch_size)))()
    if load.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        training(network, load)()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    return _grown_by(training(network, load))


if __name__ == "__main__":
    print(_measure(*pickle.load(sys.stdin.buffer)))
