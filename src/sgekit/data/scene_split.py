"""The built-in scenes as a data set, drawn once by all cores and kept in memory."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgekit.data.contract import ImageData
from sgekit.data.scenes import SPLITS, Scene, SceneConfig, draw_scene


@dataclass(frozen=True, eq=False)
class SceneSplit:
    """One split; pictures is (N, H, W, 3) uint8, 12 KiB a scene at 64 pixels."""

    config: SceneConfig
    split: str
    pictures: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        index = range(len(self))[index]
        return Image.fromarray(self.pictures[index]), index % len(self.config.classes)

    def source(self, index: int) -> str:
        """A name such as "scenes (seed 0), train 17"."""
        return f"scenes (seed {self.config.seed}), {self.split} {index}"

    def scene(self, index: int) -> Scene:
        """The scene with its masks and box, drawn anew."""
        return draw_scene(self.config, self.split, index)


def open_scenes(config: SceneConfig | None = None) -> ImageData:
    """The built-in scenes as a data set; draws all of them, at about 400 a second a core."""
    config = config or SceneConfig()
    train, val = (SceneSplit(config, split, draw_pictures(config, split)) for split in SPLITS)
    return ImageData("scenes", "scenes", config.classes, train, val, "val")


def draw_pictures(
    config: SceneConfig, split: str, *, scenes_a_process: int = 400
) -> NDArray[np.uint8]:
    """All pictures of a split, (N, H, W, 3), by one process for every scenes_a_process scenes
    of 64 pixels, or as many larger ones as take that long, and not more than the cores.

    Further interpreters draw shares of them: plain subprocesses, since a fork would copy the
    threads' locks of PyTorch and a multiprocessing spawn would run the caller's script again.
    A share whose process fails is drawn here.
    """
    count = config.count(split)
    pictures = np.empty((count, config.image_size, config.image_size, 3), dtype=np.uint8)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    work = count * max(1.0, config.image_size / 64)
    shares = max(1, min(max(2, cores or 1), 8, int(work / scenes_a_process)))
    edges = [count * i // shares for i in range(shares + 1)]
    helpers = [
        (start, stop, _start_helper(config, split, start, stop))
        for start, stop in itertools.pairwise(edges[1:])
    ]
    _draw_into(pictures, config, split, 0, edges[1])
    for start, stop, helper in helpers:
        drawn = helper.communicate()[0] if helper else b""
        if helper and helper.returncode == 0 and len(drawn) == pictures[start:stop].nbytes:
            pictures[start:stop].reshape(-1)[:] = np.frombuffer(drawn, dtype=np.uint8)
        else:
            _draw_into(pictures, config, split, start, stop)
    return pictures


def _draw_into(
    pictures: NDArray[np.uint8], config: SceneConfig, split: str, start: int, stop: int
) -> None:
    for index in range(start, stop):
        pictures[index] = draw_scene(config, split, index).image


_HELPER = (
    "import sys; sys.path[:] = {path!r}; from sgekit.data.scene_split import _help; _help({job!r})"
)


def _start_helper(
    config: SceneConfig, split: str, start: int, stop: int
) -> subprocess.Popen[bytes] | None:
    job = json.dumps([asdict(config), split, start, stop])
    code = _HELPER.format(path=sys.path, job=job)
    try:
        return subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
    except OSError:
        return None


def _help(job: str) -> None:
    settings, split, start, stop = json.loads(job)
    for name in ("classes", "creature_sizes"):
        settings[name] = tuple(settings[name])
    config = SceneConfig(**settings)
    size = config.image_size
    pictures = np.empty((stop - start, size, size, 3), dtype=np.uint8)
    for index in range(start, stop):
        pictures[index - start] = draw_scene(config, split, index).image
    # Written at the end: a pipe holds 64 KiB, and its reader is busy drawing until then.
    sys.stdout.buffer.write(pictures.tobytes())
