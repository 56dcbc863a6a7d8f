"""Images to train and validate on: built-in scenes, image folders, parquet, WebDataset shards."""

from pathlib import Path

from sgekit.data.contract import ImageData, Split
from sgekit.data.scene_split import SceneSplit, open_scenes
from sgekit.data.scenes import Distractor, Scene, SceneConfig, draw_scene
from sgekit.data.scenes_export import write_scenes
from sgekit.errors import InputError

__all__ = [
    "Distractor",
    "ImageData",
    "Scene",
    "SceneConfig",
    "SceneSplit",
    "Split",
    "draw_scene",
    "open_data",
    "open_scenes",
    "write_scenes",
]


def open_data(
    path: str | Path | None,
    *,
    skip_bad: bool = False,
    scenes: SceneConfig | None = None,
    eval_split: str | None = None,
    val_fraction: float = 0.2,
) -> ImageData:
    """Open a data set for classification, whatever its form.

    path: None for the built-in scenes (drawn as `scenes` says); a folder with one folder of
    images a class, below train/ and val/ or without them; a folder or single file of parquet as
    Hugging Face writes it; a folder or single file of WebDataset tar shards. The last two are
    copied by `datasets` into its own cache (HF_HOME), never into the data's folder.

    eval_split: what to validate on, where there are several ("val", "validation", "test").
    Without any, val_fraction of every class is held out of train, always the same images.
    skip_bad: decode everything once and leave out what cannot be decoded; without it a file
    that is no image is refused here (image folders) or when it is first asked for.

    Raises InputError for whatever is wrong with the data, naming the file.
    """
    if path is None:
        return open_scenes(scenes)
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(f"{path} does not exist; give a folder of images, parquet or tar shards")
    if path.is_dir() and not any(path.iterdir()):
        raise InputError(f"{path} is empty; give a folder of images, parquet or tar shards")

    # `datasets` takes a second to import and scenes and folders do without it.
    from sgekit.data import folders, tables

    if found := tables.find_tables(path):
        kind, files = found
        return tables.open_tables(
            path,
            kind,
            files,
            skip_bad=skip_bad,
            eval_split=eval_split,
            val_fraction=val_fraction,
        )
    if path.is_file():
        raise InputError(f"{path} is a file; give the folder that holds the images")
    return folders.open_folder(
        path, skip_bad=skip_bad, eval_split=eval_split, val_fraction=val_fraction
    )
