"""Hugging Face parquet folders and WebDataset shards, read through `datasets`."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from PIL import Image

from sgekit.data.contract import ImageData
from sgekit.data.decode import decode, unreadable
from sgekit.data.splits import Part, choose_val, hold_out, leave_out, split_of
from sgekit.errors import InputError

_SUFFIXES = {"parquet": ".parquet", "webdataset": ".tar"}
_IMAGES = ("image", "img", "jpg", "jpeg", "png", "webp", "pixel_values", "picture")
_LABELS = ("label", "labels", "cls", "class", "fine_label", "target", "category", "y")
_NAMES_FILES = ("classnames.txt", "classes.txt", "labels.txt")


@dataclass(frozen=True)
class TableSplit:
    """Rows of a table on disk; an image is decoded when asked for."""

    rows: datasets.Dataset
    image_column: str
    labels: tuple[int, ...]
    name: str

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        row = self.rows[index]
        cell = row[self.image_column]
        blob = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(blob, bytes):
            name = self._name(row, index)
            raise InputError(f"{name} holds no image bytes in {self.image_column!r}")
        return decode(blob, self._name(row, index)), self.labels[index]

    def source(self, index: int) -> str:
        """The sample's key or the file it was made from, with the row's number."""
        return self._name(self.rows[index], index)

    def _name(self, row: dict[str, Any], index: int) -> str:
        cell = row[self.image_column]
        path = cell.get("path") if isinstance(cell, dict) else None
        key = row.get("__key__", path)
        return f"{self.name} row {index}" + (f" ({key})" if key else "")


def find_tables(path: Path) -> tuple[str, dict[str, list[str]]] | None:
    """The kind of the table files at or below path and their paths by split; None without any.

    A split is told by the file's name or by a folder above it ("train-00000.parquet",
    "train/0001.tar"); files that tell none, and a file given by itself, are "train".
    """
    for kind, suffix in _SUFFIXES.items():
        found: dict[str, list[str]] = {}
        for file in [path] if path.is_file() else sorted(path.rglob(f"*{suffix}")):
            inside = file.relative_to(path if path.is_dir() else path.parent)
            hidden = any(name.startswith(".") for name in inside.parts)
            if file.suffix != suffix or hidden or not file.is_file():
                continue
            split = (split_of(*reversed(inside.parts)) if path.is_dir() else None) or "train"
            found.setdefault(split, []).append(str(file.resolve()))
        if found:
            return kind, found
    return None


def open_tables(
    path: Path,
    kind: str,
    files: dict[str, list[str]],
    *,
    skip_bad: bool,
    eval_split: str | None,
    val_fraction: float,
) -> ImageData:
    """Open what `find_tables` found (see `open_data`)."""
    val_name = choose_val(files, eval_split, str(path))
    if "train" not in files:
        raise InputError(f"{path} has {', '.join(files)} but no files of a train split")
    folder = path if path.is_dir() else path.parent
    rows = _load(kind, files["train"], f"{path} (train)")
    image_column, label_column = _columns(rows, str(path))
    classes, numbers = _classes(rows, label_column, folder)
    whole = TableSplit(_raw(rows, image_column), image_column, numbers, f"{path.name} train")
    if len(set(numbers)) < 2:
        raise InputError(f"{path} has one class only ({classes[numbers[0]]}); two are needed")
    train, skipped = leave_out(whole, unreadable) if skip_bad else (whole, ())

    def result(train: Part | TableSplit, val: Part | TableSplit, name: str) -> ImageData:
        title = path.stem if path.is_file() else path.resolve().name
        return ImageData(title, kind, classes, train, val, name, skipped)

    if val_name is None:
        labels = [numbers[i] for i in train.indices] if isinstance(train, Part) else numbers
        kept, held, name = hold_out(labels, val_fraction)
        return result(Part(train, kept), Part(train, held), name)

    other = _load(kind, files[val_name], f"{path} ({val_name})")
    if missing := {image_column, label_column} - set(other.column_names):
        raise InputError(f"{path}: {val_name} lacks the column {missing.pop()!r} of train")
    val_labels = _labels_as(classes, other, label_column, f"{path} ({val_name})")
    val: Part | TableSplit = TableSplit(
        _raw(other, image_column), image_column, val_labels, f"{path.name} {val_name}"
    )
    if skip_bad:
        val, more = leave_out(val, unreadable)
        skipped += more
    return result(train, val, val_name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the progress bars of `datasets`, whatever they were before."""
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _load(kind: str, files: list[str], where: str) -> datasets.Dataset:
    try:
        with _quiet():
            rows = datasets.load_dataset(kind, data_files={"rows": files}, split="rows")
    except Exception as problem:  # the readers raise whatever pyarrow and tarfile do
        cause = problem.__cause__ or problem
        line = " ".join(str(cause).split())[:200]
        raise InputError(
            f"{where} cannot be read as {kind} ({type(cause).__name__}: {line}); "
            f"its files: {', '.join(files[:3])}{' …' if len(files) > 3 else ''}"
        ) from None
    if len(rows) == 0:
        raise InputError(f"{where} has no rows")
    return rows


def _columns(rows: datasets.Dataset, where: str) -> tuple[str, str]:
    """The names of the image column and the label column."""
    features = rows.features
    typed = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    named = [name for name in _IMAGES if name in features]
    both = [name for name in named if name in typed]
    images = both or typed or named
    labels = [name for name in _LABELS if name in features]
    labels += [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    there = ", ".join(features)
    if not images:
        raise InputError(f"{where} has no image column ({', '.join(_IMAGES)}); columns: {there}")
    if not labels:
        raise InputError(f"{where} has no label column ({', '.join(_LABELS)}); columns: {there}")
    return images[0], labels[0]


def _raw(rows: datasets.Dataset, image_column: str) -> datasets.Dataset:
    """The rows with undecoded images, so that our own decoder and its messages apply."""
    if isinstance(rows.features[image_column], datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    keep = [name for name in (image_column, "__key__") if name in rows.column_names]
    return rows.select_columns(keep)


def _values(rows: datasets.Dataset, column: str, where: str) -> list[int | str]:
    """The labels, as integers or as text."""
    raw: list[Any] = list(rows[column])
    values: list[int | str] = []
    for row, value in enumerate(raw):
        if isinstance(value, bytes):
            text = value.decode(errors="replace").strip()
            values.append(int(text) if text.isdigit() else text)
        elif isinstance(value, int | str):
            values.append(value)
        else:
            raise InputError(f"{where} row {row} has the label {value!r} in {column!r}")
    return values


def _classes(
    rows: datasets.Dataset, column: str, folder: Path
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The class names and each row's index among them."""
    where = str(folder)
    feature = rows.features[column]
    values = _values(rows, column, where)
    if isinstance(feature, datasets.ClassLabel):
        classes = tuple(feature.names)
    elif all(isinstance(value, int) for value in values):
        top = max(int(value) for value in values)
        classes = _named(folder, top) or tuple(str(i) for i in range(top + 1))
    else:
        classes = tuple(sorted({str(value) for value in values}))
    return classes, _labels_as(classes, rows, column, where)


def _named(folder: Path, top: int) -> tuple[str, ...] | None:
    """Class names from a text file, one a line, beside the data."""
    for name in _NAMES_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            names = tuple(line.strip() for line in lines if line.strip())
            if len(names) <= top:
                raise InputError(
                    f"{folder / name} names {len(names)} classes, but a label is {top}"
                )
            return names
    return None


def _labels_as(
    classes: Sequence[str], rows: datasets.Dataset, column: str, where: str
) -> tuple[int, ...]:
    """The rows' labels as indices of classes; InputError for a label that is none of them."""
    index = {name: i for i, name in enumerate(classes)}
    labels = []
    for row, value in enumerate(_values(rows, column, where)):
        number = value if isinstance(value, int) else index.get(value, -1)
        if not 0 <= number < len(classes):
            raise InputError(
                f"{where} row {row} has the label {value!r}, which is none of the "
                f"{len(classes)} classes of train"
            )
        labels.append(number)
    return tuple(labels)
