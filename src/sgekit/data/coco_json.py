"""A COCO JSON file as columns: parsed, its fields and ids checked."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sgekit.data.coco_parse import parse, spans_of
from sgekit.errors import InputError

NAMED = 10
"""How many offenders a message names before it counts the rest."""

_FAR = 1e15


@dataclass(frozen=True, eq=False)
class CocoColumns:
    """M images and N annotations in the file's order; `where` indexes an annotation's image.

    sizes (M, 2) are height and width, -1 where the file tells none; boxes (N, 4) are x, y, width,
    height; area is NaN where there is none; spans (N, 2) are begin and end of the segmentation's
    JSON in text, equal where there is none. categories maps ids, ascending, to names and
    supercategories.
    """

    path: Path
    files: tuple[str, ...]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.int64]
    categories: dict[int, tuple[str, str]]
    ids: NDArray[np.int64]
    where: NDArray[np.int64]
    category: NDArray[np.int64]
    boxes: NDArray[np.float64]
    area: NDArray[np.float64]
    crowd: NDArray[np.bool_]
    spans: NDArray[np.int64]
    text: bytes
    notes: tuple[str, ...]


def listed(things: Iterable[object], limit: int = NAMED) -> str:
    """The first things, and how many more there are: "a, b and 3 more"."""
    names = [str(thing) for thing in things]
    text = ", ".join(names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text


def counted(number: int, one: str, many: str | None = None) -> str:
    """The number with the word for it: "1 box", "1,200 boxes"."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def read_columns(path: Path) -> CocoColumns:
    """Read a COCO JSON file; InputError says what is wrong with it and names ten offenders."""
    content, found = parse(path)
    images = _items(content, "images", path)
    annotations = _items(content, "annotations", path)
    categories = _categories(_items(content, "categories", path), path)
    if not images:
        raise InputError(f"{path} lists no images")
    if not categories:
        raise InputError(f"{path} lists no categories; without classes there is nothing to learn")

    refuse = _Refuse(path)
    notes: list[str] = []
    files = [image.get("file_name") for image in images]
    strange = [i for i, name in enumerate(files) if not (isinstance(name, str) and name)]
    refuse("images without a file_name", [f"images[{i}]" for i in strange], "name their files")
    image_ids = _whole(images, "id", "images", refuse)
    refuse("several images have the id", _twice(image_ids).tolist(), "give every image its own")
    sizes = _sizes(images, refuse)

    if annotations and not any("id" in note for note in annotations):
        ids = np.arange(1, len(annotations) + 1)
        notes.append(f"{counted(len(ids), 'annotation')} without an id, numbered in their order")
    else:
        ids = _whole(annotations, "id", "annotations", refuse)
    refuse("several annotations have the id", _twice(ids).tolist(), "give every annotation its own")
    of_image = _whole(annotations, "image_id", "annotations", refuse)
    order = np.argsort(image_ids)
    place = np.minimum(np.searchsorted(image_ids[order], of_image), len(order) - 1)
    where = order[place]
    lost = np.flatnonzero(image_ids[where] != of_image)
    refuse(
        "annotations whose image_id is no image's",
        [f"{ids[i]} (image_id {of_image[i]})" for i in lost],
        "add the images or remove the annotations",
    )
    category = _whole(annotations, "category_id", "annotations", refuse)
    lost = np.flatnonzero(~np.isin(category, list(categories)))
    refuse(
        "annotations whose category_id is no category's",
        [f"{ids[i]} (category_id {category[i]})" for i in lost],
        f"the categories are {listed(f'{k} {name}' for k, (name, _) in categories.items())}",
    )
    crowd = [note.get("iscrowd", 0) for note in annotations]
    strange = [i for i, flag in enumerate(crowd) if flag not in (0, 1, None)]
    refuse("iscrowd is neither 0 nor 1 in", [f"annotation {ids[i]}" for i in strange], "mend it")
    return CocoColumns(
        path=path,
        files=tuple(str(name) for name in files),
        image_ids=image_ids,
        sizes=sizes,
        categories=categories,
        ids=ids,
        where=where,
        category=category,
        boxes=_boxes(annotations, ids, refuse),
        area=_numbers([note.get("area") for note in annotations], "area", ids, refuse),
        crowd=np.array([bool(flag) for flag in crowd], dtype=np.bool_),
        spans=spans_of(annotations, found),
        text=bytes(found.text),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Refuse:
    """Raises where there is anything bad; `error` is what it raises."""

    path: Path

    def __call__(self, what: str, bad: Sequence[object], advice: str) -> None:
        if bad:
            raise self.error(what, bad, advice)

    def error(self, what: str, bad: Sequence[object], advice: str) -> InputError:
        return InputError(f"{self.path}: {what}: {listed(bad)}; {advice}")


def _items(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    items = content.get(key)
    if not isinstance(items, list):
        there = listed(content) or "nothing"
        raise InputError(f"{path} has no list of {key} (it has {there}); export it as COCO JSON")
    strange = [f"{key}[{i}]" for i, item in enumerate(items) if type(item) is not dict]
    if strange:
        raise InputError(f"{path}: not JSON objects: {listed(strange)}; export it as COCO JSON")
    return items


def _categories(items: list[dict[str, Any]], path: Path) -> dict[int, tuple[str, str]]:
    found: dict[int, tuple[str, str]] = {}
    for place, item in enumerate(items):
        number, name = item.get("id"), item.get("name")
        if type(number) is not int or not (isinstance(name, str) and name.strip()):
            raise InputError(
                f"{path}: categories[{place}] needs a whole number as id and a name, not {item}"
            )
        if number in found:
            raise InputError(
                f"{path}: two categories have the id {number}: {found[number][0]} and {name}; "
                "give every category its own"
            )
        found[number] = name, str(item.get("supercategory", ""))
    names = [name for name, _ in found.values()]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        ids = [f"{name} ({listed(k for k in found if found[k][0] == name)})" for name in twice]
        raise InputError(
            f"{path}: several categories have one name: {listed(ids)}; merge or rename them"
        )
    return dict(sorted(found.items()))


def _whole(items: list[dict[str, Any]], key: str, what: str, refuse: _Refuse) -> NDArray[np.int64]:
    values = [item.get(key) for item in items]
    if not set(map(type, values)) <= {int}:
        whole = [type(v) is int or (type(v) is float and v.is_integer()) for v in values]
        refuse(
            f"{key} is no whole number in",
            [f"{what}[{i}] ({values[i]!r})" for i, good in enumerate(whole) if not good],
            "ids are whole numbers",
        )
        values = [int(v or 0) for v in values]
    try:
        return np.array(values, dtype=np.int64)
    except OverflowError:
        far = [f"{what}[{i}] ({v})" for i, v in enumerate(values) if abs(v or 0) >= 2**63]
    raise refuse.error(f"{key} has more than 64 bits in", far, "number them anew")


def _twice(values: NDArray[np.int64]) -> NDArray[np.int64]:
    unique, counts = np.unique(values, return_counts=True)
    return unique[counts > 1]


def _sizes(images: list[dict[str, Any]], refuse: _Refuse) -> NDArray[np.int64]:
    sizes = np.full((len(images), 2), -1, dtype=np.int64)
    strange = []
    for place, image in enumerate(images):
        height, width = image.get("height"), image.get("width")
        if height is None and width is None:
            continue
        try:
            sizes[place] = int(height), int(width)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            sizes[place] = 0
        if sizes[place].min() < 1:
            strange.append(f"{image.get('file_name')} ({width} × {height})")
    refuse("images whose width and height are no sizes", strange, "mend them or leave both out")
    return sizes


def _boxes(
    annotations: list[dict[str, Any]], ids: NDArray[np.int64], refuse: _Refuse
) -> NDArray[np.float64]:
    values = [note.get("bbox") for note in annotations]
    try:
        boxes = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        boxes = np.array([np.nan])
    if boxes.shape != (len(values), 4) or not (np.abs(boxes) < _FAR).all():
        refuse(
            "bbox is not four finite numbers in",
            [f"annotation {ids[i]} ({box})" for i, box in enumerate(values) if not _is_box(box)],
            "COCO's are x, y, width, height in pixels",
        )
    return boxes.reshape(len(values), 4)


def _is_box(box: object) -> bool:
    if type(box) is not list or len(box) != 4:
        return False
    # False for NaN, and right for whole numbers that no float can hold.
    return set(map(type, box)) <= {int, float} and all(-_FAR < v < _FAR for v in box)


def _numbers(
    values: list[Any], key: str, ids: NDArray[np.int64], refuse: _Refuse
) -> NDArray[np.float64]:
    try:
        numbers = np.array(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        numbers = None
    if numbers is not None and numbers.shape == ids.shape and not np.isinf(numbers).any():
        return numbers
    good = [v is None or (type(v) in (int, float) and abs(v) < _FAR) for v in values]
    raise refuse.error(
        f"{key} is no number in",
        [f"annotation {ids[i]} ({values[i]!r})" for i, fine in enumerate(good) if not fine],
        "write pixels, or leave it out",
    )
