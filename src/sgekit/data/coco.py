"""COCO JSON folders as detection data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgekit.data.coco_boxes import corners, mend_boxes
from sgekit.data.coco_files import Pictures, find_files
from sgekit.data.coco_json import CocoColumns, counted, listed, read_columns
from sgekit.data.coco_layout import choose_json, image_folders
from sgekit.data.coco_masks import Segmentations, store
from sgekit.data.coco_parse import without_collector
from sgekit.data.detection import DetectionData, Target
from sgekit.data.splits import hold_out
from sgekit.errors import InputError


@dataclass(frozen=True, eq=False)
class CocoSplit:
    """The images `chosen` of a COCO file; annotations are arrays, masks are decoded when asked for.

    Image i has the annotations first[i] to first[i + 1], in the file's order: ids, labels from 1,
    boxes (N, 4) x, y, width, height, area, crowd and segmentations (None where the data have no
    masks). category_ids are the file's own ids of the classes.
    """

    classes: tuple[str, ...]
    pictures: Pictures
    names: tuple[str, ...]
    image_ids: NDArray[np.int64]
    chosen: NDArray[np.intp]
    first: NDArray[np.int64]
    ids: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    segmentations: Segmentations | None
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Image.Image, Target]:
        image = self.chosen[index]
        mine = slice(int(self.first[image]), int(self.first[image + 1]))
        picture = self.pictures.read(int(image))
        masks = None
        if self.segmentations is not None:
            size = self.size(index)
            masks = self.segmentations.masks(mine.start, mine.stop, size, self.ids)
        target = Target(
            boxes=corners(self.boxes[mine], self.pictures.sizes[image]),
            labels=self.labels[mine].copy(),
            area=self.area[mine].astype(np.float32),
            crowd=self.crowd[mine].copy(),
            masks=masks,
            image_id=int(self.image_ids[image]),
        )
        return picture, target

    def size(self, index: int) -> tuple[int, int]:
        """(height, width), from the JSON."""
        height, width = self.pictures.sizes[self.chosen[index]]
        return int(height), int(width)

    def source(self, index: int) -> str:
        """The file's path."""
        return self.pictures.paths[int(self.chosen[index])]

    def image_id(self, index: int) -> int:
        """The image's id in the JSON."""
        return int(self.image_ids[self.chosen[index]])

    def ground_truth(self) -> dict[str, Any]:
        """A COCO dict of the chosen images, with category ids 1 to K and annotation ids from 1.

        The annotations keep their ids unless one is below 1, which evaluation takes for no match.
        """
        renumber = bool((self.ids < 1).any())
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index, image in enumerate(self.chosen):
            height, width = self.size(index)
            number = self.image_id(index)
            images.append(
                {"id": number, "file_name": self.names[image], "width": width, "height": height}
            )
            for i in range(int(self.first[image]), int(self.first[image + 1])):
                note: dict[str, Any] = {
                    "id": len(annotations) + 1 if renumber else int(self.ids[i]),
                    "image_id": number,
                    "category_id": int(self.labels[i]),
                    "bbox": self.boxes[i].tolist(),
                    "area": float(self.area[i]),
                    "iscrowd": int(self.crowd[i]),
                }
                if self.segmentations is not None:
                    note["segmentation"] = self.segmentations.coco(
                        i, (height, width), int(self.ids[i])
                    )
                annotations.append(note)
        categories = [{"id": k, "name": name} for k, name in enumerate(self.classes, 1)]
        return {
            "info": {},
            "licenses": [],
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }


def open_coco(
    root: Path, *, eval_split: str | None, val_fraction: float, skip_bad: bool
) -> DetectionData:
    """Open a folder with COCO JSON (see `open_detection`).

    Classes are the training file's categories in the order of their ids; the validation file's
    are matched to them by name.
    """
    train_json, val_json, val_name = choose_json(root, eval_split)
    paths = [train_json] if val_json is None else [train_json, val_json]
    with without_collector():
        files = [read_columns(path) for path in paths]
    classes, notes = _classes(files)
    splits = []
    for columns in files:
        split, told = _split(root, columns, classes, skip_bad)
        splits.append(split)
        notes += [f"{columns.path.name}: {note}" for note in told]
    masks, partly = _masks(splits)
    if not masks:
        splits = [replace(split, segmentations=None) for split in splits]
    train = splits[0]
    if not np.diff(train.first)[train.chosen].any():
        raise InputError(f"{train_json} has no box on any image that can be used for training")
    if val_name is None:
        train, val, val_name = _hold_out(train, val_fraction)
    else:
        val = splits[1]
    notes += _shared(train, val)
    return DetectionData(
        name=root.resolve().name,
        kind="coco",
        classes=classes,
        train=train,
        val=val,
        val_name=val_name,
        masks=masks,
        notes=tuple(notes + partly),
        category_ids=val.category_ids,
    )


def _classes(files: Sequence[CocoColumns]) -> tuple[tuple[str, ...], list[str]]:
    """The classes in the order of the first file's ids, and what was left out of them."""
    train = files[0]
    used = {f.categories[int(k)][0] for f in files for k in np.unique(f.category)}
    above = {parent for name, parent in train.categories.values() if parent != name}
    names = [name for name, _ in train.categories.values()]
    # Roboflow writes the name of the whole as a category of its own, above the others.
    roots = [name for name in names if name in above and name not in used]
    classes = tuple(name for name in names if name not in roots)
    for other in files[1:]:
        lacking = [name for name, _ in other.categories.values() if name not in names]
        if lacking:
            raise InputError(
                f"{other.path} has categories that {train.path.name} lacks: {listed(lacking)}; "
                "rename or remove them"
            )
    if not roots:
        return classes, []
    return classes, [f"category {listed(roots)} left out: it has no boxes and stands above others"]


def _split(
    root: Path, columns: CocoColumns, classes: tuple[str, ...], skip_bad: bool
) -> tuple[CocoSplit, tuple[str, ...]]:
    found = find_files(columns, image_folders(root, columns.path), skip_bad=skip_bad)
    sizes = found.pictures.sizes
    # Of images that are left out, no box is looked at: their sizes may be unknown.
    usable = np.zeros(len(sizes), dtype=np.bool_)
    usable[found.good] = True
    columns = _only(columns, usable[columns.where])
    mended = mend_boxes(columns, sizes)
    # Image by image, in the file's order within each.
    order = np.argsort(columns.where[mended.kept], kind="stable")
    kept = mended.kept[order]
    where = columns.where[kept]
    segmentations, told = store(
        columns.text, columns.spans[kept], columns.ids[kept], sizes[where], columns.path
    )
    known = np.array(list(columns.categories), dtype=np.int64)
    labels = [classes.index(n) + 1 if n in classes else 0 for n, _ in columns.categories.values()]
    split = CocoSplit(
        classes=classes,
        pictures=found.pictures,
        names=columns.files,
        image_ids=columns.image_ids,
        chosen=found.good,
        first=np.searchsorted(where, np.arange(len(sizes) + 1)).astype(np.int64),
        ids=columns.ids[kept],
        labels=np.array(labels, dtype=np.int64)[np.searchsorted(known, columns.category[kept])],
        boxes=mended.boxes[order],
        area=mended.area[order],
        crowd=columns.crowd[kept],
        segmentations=segmentations,
        category_ids=_category_ids(columns, classes),
    )
    return split, columns.notes + found.notes + mended.notes + told


def _category_ids(columns: CocoColumns, classes: Sequence[str]) -> tuple[int, ...]:
    """The file's ids of the classes; one that it does not list gets an id above all others."""
    known = {name: int(number) for number, (name, _) in columns.categories.items()}
    free = max(known.values(), default=0) + 1
    return tuple(known.get(name, free + place) for place, name in enumerate(classes))


def _only(columns: CocoColumns, chosen: NDArray[np.bool_]) -> CocoColumns:
    """The columns with the chosen annotations alone."""
    if chosen.all():
        return columns
    names = ("ids", "where", "category", "boxes", "area", "crowd", "spans")
    kept: dict[str, Any] = {name: getattr(columns, name)[chosen] for name in names}
    return replace(columns, **kept)


def _masks(splits: Sequence[CocoSplit]) -> tuple[bool, list[str]]:
    """Whether every object has a mask, and a note where only some have."""
    stored = [split.segmentations for split in splits if split.segmentations is not None]
    total = sum(len(s.spans) for s in stored)
    lacking = sum(s.lacking() for s in stored)
    if lacking in (0, total):
        return lacking == 0, []
    return False, [f"masks not used: {counted(lacking, 'object')} of {total:,} have none"]


def _hold_out(whole: CocoSplit, fraction: float) -> tuple[CocoSplit, CocoSplit, str]:
    """Split the images by the rarest class on each, so that every class is on both sides."""
    counts = np.bincount(whole.labels, minlength=len(whole.classes) + 1)
    rarest = []
    for image in whole.chosen:
        labels = whole.labels[whole.first[image] : whole.first[image + 1]]
        rarest.append(int(min(labels, key=lambda k: counts[k], default=0)))
    kept, held, name = hold_out(rarest, fraction)
    chosen = [whole.chosen[list(part)] for part in (kept, held)]
    return replace(whole, chosen=chosen[0]), replace(whole, chosen=chosen[1]), name


def _shared(train: CocoSplit, val: CocoSplit) -> list[str]:
    """A note where files are both trained and validated on."""
    both = sorted(
        {train.source(i) for i in range(len(train))} & {val.source(i) for i in range(len(val))}
    )
    if not both:
        return []
    names = listed([Path(path).name for path in both], 3)
    return [f"{counted(len(both), 'image')} both trained and validated on: {names}"]
