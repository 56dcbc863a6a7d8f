"""Images to train and validate on: built-in scenes, image folders, parquet, WebDataset shards."""

from pathlib import Path

from sgekit.data.contract import ImageData, Split
from sgekit.data.scenes import SceneConfig, open_scenes
from sgekit.errors import InputError

__all__ = ["ImageData", "SceneConfig", "Split", "open_data"]


def open_data(
    path: str | Path | None,
    *,
    skip_bad: bool = False,
    scenes: SceneConfig | None = None,
    eval_split: str | None = None,
    val_fraction: float = 0.2,
) -> ImageData:
    """Open a data set; None is the built-in scenes."""
    if path is None:
        return open_scenes(scenes)
    raise InputError(f"cannot open {path}: no reader yet")
