"""What is looked at: built-in scenes, data with regions, labelled images, any files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sgekit.data import open_data
from sgekit.data.contract import Split
from sgekit.data.decode import decode
from sgekit.data.regions import Marked, MarkedSplit, RegionData, open_regions, regions_form
from sgekit.errors import InputError
from sgekit.training.evaluate import find_images

_SPLITS = ("train", "val", "valid", "validation", "test")


@dataclass(frozen=True)
class _Files:
    files: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Marked:
        file = self.files[index]
        return Marked(decode(file, str(file)), None, {})

    def source(self, index: int) -> str:
        return str(self.files[index])


@dataclass(frozen=True)
class _Labelled:
    split: Split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Marked:
        image, label = self.split[index]
        return Marked(image, label, {})

    def source(self, index: int) -> str:
        return self.split.source(index)


def open_source(
    paths: Sequence[str],
    classes: Sequence[str] = (),
    *,
    eval_split: str | None = None,
    skip_bad: bool = False,
) -> RegionData:
    """Files and folders of images, or one data set; none are the built-in scenes.

    A single folder is, in this order, data with regions (`open_regions`), a data set of labelled
    images (`open_data`; folders named after ``classes`` are one), or a folder of images.

    Raises InputError for whatever is wrong with them.
    """
    if not paths:
        marked = open_regions(None)
    elif len(paths) == 1:
        marked = open_regions(paths[0], eval_split=eval_split, skip_bad=skip_bad)
    else:
        marked = None
        for path in paths:
            if regions_form(Path(path).expanduser()):
                raise InputError(
                    f"{path} says where things are in its images; it is looked at alone, so that "
                    "this can be measured"
                )
    if marked is not None:
        return marked
    if len(paths) == 1 and _is_data(Path(paths[0]).expanduser(), set(classes)):
        data = open_data(paths[0], skip_bad=skip_bad, eval_split=eval_split)
        return RegionData(data.name, (), None, data.classes, _Labelled(data.val))
    if eval_split is not None:
        raise InputError(f"there are no splits in {', '.join(paths)}, so none is {eval_split!r}")
    split: MarkedSplit = _Files(tuple(find_images([Path(p).expanduser() for p in paths])))
    name = Path(paths[0]).name if len(paths) == 1 else ""
    return RegionData(name, (), None, (), split)


def _is_data(path: Path, classes: set[str]) -> bool:
    if path.suffix in (".parquet", ".tar"):
        return True
    if not path.is_dir():
        return False
    inside = {entry.name for entry in path.iterdir() if entry.is_dir()}
    tables = any(entry.suffix in (".parquet", ".tar") for entry in path.rglob("*"))
    return tables or bool(inside & {*_SPLITS, *classes})


def labels_between(data: Sequence[str], network: Sequence[str]) -> list[int | None]:
    """The network's number of each of the data's classes, by name; None for one it doesn't know."""
    known = {name: number for number, name in enumerate(network)}
    return [known.get(name) for name in data]
