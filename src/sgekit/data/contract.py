"""What every source of images looks like to the rooms above."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class Split(Protocol):
    """A map-style, picklable sequence of labelled images."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        """The RGB image and its class index; an image that cannot be read raises InputError."""
        ...

    def source(self, index: int) -> str:
        """The file name or key of an image, for messages."""
        ...


@dataclass(frozen=True)
class ImageData:
    """A classification data set, opened.

    `kind` is "scenes", "folder", "parquet" or "webdataset". `val_name` says what is validated
    on: "val", "validation", "test", or a share of the training images held out. `skipped` names
    the unreadable files that skip_bad left out.
    """

    name: str
    kind: str
    classes: tuple[str, ...]
    train: Split
    val: Split
    val_name: str
    skipped: tuple[str, ...] = ()
