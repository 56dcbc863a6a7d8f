"""Images with boxes and masks: what every source of them looks like to the rooms above."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgekit.data.scenes import SceneConfig
from sgekit.errors import InputError


@dataclass(frozen=True, eq=False)
class Target:
    """What is known of one image's N objects, in pixels of the image as it is delivered.

    boxes (N, 4) x0, y0, x1, y1 inside the picture, x1 > x0 and y1 > y0; labels (N,) from 1 in the
    order of the data's classes, 0 is the background; area (N,) as annotated; crowd (N,) marks a
    region of many objects; masks (N, H, W) of 0 and 1, None where the data have none.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    area: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    masks: NDArray[np.uint8] | None
    image_id: int


class DetectionSplit(Protocol):
    """A map-style, picklable sequence of annotated images; some may hold no object."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        """The RGB image and its objects; an image that cannot be read raises InputError."""
        ...

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), told without decoding."""
        ...

    def source(self, index: int) -> str:
        """The file name of an image, for messages."""
        ...

    def image_id(self, index: int) -> int:
        """The image's id in the ground truth."""
        ...

    def ground_truth(self) -> dict[str, Any]:
        """A new COCO dict: images, annotations (crowds as well), categories with ids 1 to K."""
        ...


@dataclass(frozen=True)
class DetectionData:
    """A detection data set, opened.

    `kind` is "coco" or "scenes". `val_name` says what is validated on, as in `ImageData`. `masks`
    is true where every object has one. `notes` say what was mended or left out, with counts.
    `category_ids` are the classes' ids in the evaluation file; None: they are 1 to K.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    train: DetectionSplit
    val: DetectionSplit
    val_name: str
    masks: bool
    notes: tuple[str, ...] = ()
    category_ids: tuple[int, ...] | None = None


def open_detection(
    path: str | Path | None,
    *,
    eval_split: str | None = None,
    val_fraction: float = 0.2,
    skip_bad: bool = False,
    scenes: SceneConfig | None = None,
) -> DetectionData:
    """Open a detection data set: a folder with COCO JSON, or None for the built-in scenes.

    eval_split: what to validate on, where there are several ("val", "valid", "test"). Without
    any, val_fraction of the images is held out of train, always the same ones.
    skip_bad: leave out images whose file is missing, cannot be decoded or has another size than
    the JSON says (everything is decoded once to find them), and tell them in `notes`.

    Raises InputError for whatever is wrong with the data, naming the file and the first ten
    offenders.
    """
    if path is None:
        from sgekit.data.scene_detection import open_scene_detection

        return open_scene_detection(scenes)
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder with images and COCO JSON")
    if path.is_file():
        raise InputError(f"{path} is a file; give the folder that holds the images and the JSON")

    from sgekit.data.coco import open_coco

    return open_coco(path, eval_split=eval_split, val_fraction=val_fraction, skip_bad=skip_bad)


def is_detection(path: Path) -> bool:
    """Whether path is a folder with COCO JSON, told by names and a look at the files' ends."""
    from sgekit.data.coco_layout import find_json

    return path.is_dir() and bool(find_json(path))
