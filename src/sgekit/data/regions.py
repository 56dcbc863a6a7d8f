"""Images with named regions: the parts of a creature, a head, the foreground, COCO's objects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgekit.data.creatures import PARTS
from sgekit.data.decode import decode, reading
from sgekit.data.detection import DetectionSplit, is_detection, open_detection
from sgekit.data.scene_detection import SceneDetectionSplit
from sgekit.data.scenes import SceneConfig
from sgekit.errors import InputError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Marked:
    """One RGB image, its class where there is one, and the regions that are in it, (H, W) each."""

    image: Image.Image
    label: int | None
    masks: Mapping[str, Mask]


class MarkedSplit(Protocol):
    """A sequence of images with regions."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Marked:
        """The image and its regions; InputError where the files are wrong."""
        ...

    def source(self, index: int) -> str:
        """The file name of an image, for messages."""
        ...


@dataclass(frozen=True)
class RegionData:
    """Images whose regions are known. ``whole`` names that of the object itself, among
    ``regions``, if there is one; the others are its parts. Name and classes may be empty."""

    name: str
    regions: tuple[str, ...]
    whole: str | None
    classes: tuple[str, ...]
    split: MarkedSplit

    @property
    def parts(self) -> tuple[str, ...]:
        """The regions but the whole."""
        return tuple(name for name in self.regions if name != self.whole)


def open_regions(
    path: str | Path | None,
    *,
    scenes: SceneConfig | None = None,
    eval_split: str | None = None,
    skip_bad: bool = False,
) -> RegionData | None:
    """Open images with regions, or None where the folder says nothing of regions.

    path: None for the built-in scenes; a folder that `write_scenes` wrote (part_masks/); one with
    annotations.json, images/ and trimaps/ (1 foreground, 2 background, 3 border, which counts as
    foreground) and boxes of parts, as of the Oxford-IIIT pets; a folder with COCO JSON, whose
    regions are the categories' masks (boxes where there are none) and all objects together.

    Raises InputError for whatever is wrong with the data.
    """
    if path is None:
        return of_scenes(scenes or SceneConfig())
    path = Path(path).expanduser()
    form = regions_form(path)
    if form == "scenes":
        return _written_scenes(path, eval_split or "val")
    if form == "trimaps":
        return _trimaps(path)
    if form == "coco":
        data = open_detection(path, eval_split=eval_split, skip_bad=skip_bad)
        return of_detection(data.name, data.classes, data.val)
    return None


def regions_form(path: Path) -> Literal["scenes", "trimaps", "coco"] | None:
    """How a folder says where things are in its images, of the ways that `open_regions` takes."""
    if (path / "part_masks" / "parts.json").is_file():
        return "scenes"
    if (path / "trimaps").is_dir() and (path / "annotations.json").is_file():
        return "trimaps"
    return "coco" if is_detection(path) else None


def of_scenes(config: SceneConfig, split: str = "val") -> RegionData:
    """The built-in scenes with their creature and its parts."""
    drawn = _Scenes(SceneDetectionSplit(config, split))
    return RegionData("scenes", ("creature", *PARTS), "creature", config.classes, drawn)


def of_detection(name: str, classes: tuple[str, ...], split: DetectionSplit) -> RegionData:
    """Objects as regions: one for each class, and all together where there are several."""
    whole = "objects" if len(classes) > 1 else classes[0]
    if whole == "objects" and "objects" in classes:
        whole = "all objects"
    regions = (whole, *classes) if len(classes) > 1 else classes
    return RegionData(name, regions, whole, (), _Objects(split, classes, whole))


@dataclass(frozen=True)
class _Scenes:
    split: SceneDetectionSplit

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Marked:
        scene = self.split.scene(index)
        masks = {"creature": scene.mask, **scene.parts}
        return Marked(Image.fromarray(scene.image), scene.label, masks)

    def source(self, index: int) -> str:
        return self.split.source(index)


@dataclass(frozen=True)
class _Objects:
    split: DetectionSplit
    classes: tuple[str, ...]
    whole: str

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> Marked:
        image, target = self.split[index]
        shape = (image.height, image.width)
        found: dict[str, Mask] = {}
        for number, label in enumerate(target.labels.tolist()):
            if target.masks is not None:
                mask = target.masks[number].astype(np.bool_)
            else:
                mask = _box(shape, target.boxes[number].tolist())
            for name in {self.classes[label - 1], self.whole}:
                found[name] = found[name] | mask if name in found else mask
        return Marked(image, None, found)

    def source(self, index: int) -> str:
        return self.split.source(index)


def _box(shape: tuple[int, int], box: list[float]) -> Mask:
    """The pixels of a box x0, y0, x1, y1, at least one where it is in the picture at all."""
    mask = np.zeros(shape, dtype=np.bool_)
    height, width = shape
    if box[2] <= 0 or box[3] <= 0 or box[0] >= width or box[1] >= height:
        return mask
    x0, y0 = max(0, int(box[0])), max(0, int(box[1]))
    mask[y0 : max(y0 + 1, round(box[3])), x0 : max(x0 + 1, round(box[2]))] = True
    return mask


@dataclass(frozen=True)
class _Files:
    """Images and, for each, a picture of numbers and boxes."""

    images: tuple[Path, ...]
    indices: tuple[Path, ...]
    labels: tuple[int | None, ...]
    numbers: Mapping[str, tuple[int, ...]]
    """Which numbers of the picture belong to a region."""
    boxes: tuple[Mapping[str, tuple[list[float], ...]], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Marked:
        index = range(len(self))[index]
        image = decode(self.images[index], str(self.images[index]))
        file = self.indices[index]
        with reading(str(file)), Image.open(file) as opened:
            picture = np.asarray(opened.convert("L") if opened.mode != "P" else opened)
        if picture.shape != (image.height, image.width):
            raise InputError(
                f"the mask {file} is {picture.shape[1]} x {picture.shape[0]} and its image "
                f"{self.images[index].name} {image.width} x {image.height}; both must be one size"
            )
        found = {
            name: mask
            for name, numbers in self.numbers.items()
            if (mask := np.isin(picture, numbers)).any()
        }
        for name, boxes in self.boxes[index].items() if self.boxes else ():
            for box in boxes:
                mask = _box((image.height, image.width), box)
                if not mask.any():
                    continue
                found[name] = found[name] | mask if name in found else mask
        return Marked(image, self.labels[index], found)

    def source(self, index: int) -> str:
        return str(self.images[range(len(self))[index]])


def _written_scenes(path: Path, split: str) -> RegionData:
    numbers = _json(path / "part_masks" / "parts.json")
    if not isinstance(numbers, dict) or not all(isinstance(v, int) for v in numbers.values()):
        raise InputError(f"{path}/part_masks/parts.json doesn't give every part's number")
    parts = {name: (number,) for name, number in numbers.items() if name != "background"}
    folder = path / split
    if not folder.is_dir():
        raise InputError(f"{path} has no split {split}; choose train or val")
    classes = tuple(_listed(path, split) or sorted(p.name for p in folder.iterdir() if p.is_dir()))
    images = tuple(
        sorted((p for name in classes for p in (folder / name).glob("*.png")), key=lambda p: p.stem)
    )
    masks = tuple(path / "part_masks" / split / image.name for image in images)
    labels = tuple(classes.index(image.parent.name) for image in images)
    whole = {"creature": tuple(number for (number,) in parts.values())}
    return _checked(path, _Files(images, masks, labels, whole | parts), "creature", classes)


def _listed(path: Path, split: str) -> list[str]:
    """The classes in the order of their labels, as the scenes' COCO JSON has them."""
    file = path / "annotations" / f"instances_{split}.json"
    content = _json(file) if file.is_file() else {}
    return [category["name"] for category in content.get("categories", [])]


def _trimaps(path: Path) -> RegionData:
    content = _json(path / "annotations.json")
    whole = "foreground"
    try:
        classes = tuple(str(name) for name in content.get("classes") or ())
        if whole in {str(entry["name"]) for entry in content.get("categories", [])}:
            whole = "foreground of the trimap"
        entries = sorted(content["images"], key=lambda entry: entry["file_name"])
        names = {entry["id"]: str(entry["name"]) for entry in content.get("categories", [])}
        boxes: dict[Any, dict[str, tuple[list[float], ...]]] = {}
        for note in content.get("annotations", []):
            x, y, width, height = map(float, note["bbox"])
            if not np.isfinite([x, y, width, height]).all():
                raise ValueError(f"the box {note['bbox']}, which is not finite")
            own = boxes.setdefault(note["image_id"], {})
            name = names[note["category_id"]]
            own[name] = (*own.get(name, ()), [x, y, x + width, y + height])
        files = _Files(
            tuple(path / "images" / entry["file_name"] for entry in entries),
            tuple(path / "trimaps" / f"{Path(entry['file_name']).stem}.png" for entry in entries),
            tuple(_label(entry.get("label"), classes) for entry in entries),
            {whole: (1, 3)},
            tuple(boxes.get(entry["id"], {}) for entry in entries),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise InputError(
            f"{path}/annotations.json is not as COCO's boxes are written: {problem!r}"
        ) from None
    _checked(path, files, whole, classes)
    return RegionData(path.name, (whole, *names.values()), whole, classes, files)


def _label(value: Any, classes: tuple[str, ...]) -> int | None:
    if value is None or not classes:
        return None
    if not isinstance(value, int) or not 0 <= value < len(classes):
        raise ValueError(f"the label {value!r}; labels are numbers from 0 to {len(classes) - 1}")
    return value


def _checked(path: Path, files: _Files, whole: str, classes: tuple[str, ...]) -> RegionData:
    if not files.images:
        raise InputError(f"{path} has no images with masks in it")
    missing = [str(file) for file in (*files.images, *files.indices) if not file.is_file()]
    if missing:
        shown = ", ".join(missing[:10])
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        raise InputError(f"{path} lacks {shown}{more}")
    return RegionData(path.name, tuple(files.numbers), whole, classes, files)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise InputError(f"{file} cannot be read as JSON: {problem}") from None
