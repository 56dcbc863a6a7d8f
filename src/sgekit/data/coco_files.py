"""The image files of a COCO data set: found, held against the sizes in the JSON, and read."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from sgekit.data.coco_json import CocoColumns, counted, listed
from sgekit.data.decode import reading, threads, to_rgb
from sgekit.errors import InputError

T = TypeVar("T")
R = TypeVar("R")

# A file's header costs about 0.1 ms with warm disks: more than these are felt, so that of larger
# sets a sample is looked at, and the rest held against the JSON when it is read.
_ALL_HEADERS = 50_000
_SAMPLE = 5_000


@dataclass(frozen=True, eq=False)
class Pictures:
    """M image files; sizes (M, 2) are heights and widths of the pictures as delivered.

    as_stored: the annotations belong to the pictures before their EXIF turn, also where a size
    cannot tell (half turns, mirror images, squares).
    """

    paths: tuple[str, ...]
    sizes: NDArray[np.int64]
    as_stored: bool = False

    def read(self, index: int) -> Image.Image:
        """The RGB image, turned so that its size is the annotated one."""
        path, (height, width) = self.paths[index], self.sizes[index]
        with reading(path), Image.open(path) as image:
            image.load()
            stored = image.size
            picture = to_rgb(image, upright=not self.as_stored)
            if picture.size != (width, height):
                picture = to_rgb(image, upright=self.as_stored)
        if picture.size != (width, height):
            raise InputError(
                f"{path} is {stored[0]} × {stored[1]} pixels, its annotation says "
                f"{width} × {height}; {_SIZES}"
            )
        return picture


_SIZES = (
    "the boxes belong to another version of the picture: put that one there, correct the JSON, "
    "or leave such images out with --skip-bad (skip_bad=True)"
)


@dataclass(frozen=True, eq=False)
class Found:
    """The files, `good` indexes those to use, and what was left out or mended."""

    pictures: Pictures
    good: NDArray[np.intp]
    notes: tuple[str, ...]


def find_files(columns: CocoColumns, folders: Sequence[Path], *, skip_bad: bool) -> Found:
    """The files of all images, in the one of the folders that holds most of them.

    InputError for files that are missing, cannot be read or have another size than the JSON says
    (for which the EXIF orientation may be applied or not); with skip_bad everything is decoded
    and these are left out and told.
    """
    folder, there = _folder(columns, folders)
    missing = [columns.files[i] for i in np.flatnonzero(~there)]
    notes: list[str] = []
    if not there.any():
        raise InputError(
            f"{columns.path}: none of its {len(there):,} files is there ({missing[0]}, …); "
            f"looked in {listed(folders)}"
        )
    if missing and not skip_bad:
        raise InputError(
            f"{columns.path} names {counted(len(missing), 'file')} of {len(there):,} that "
            f"{folder} lacks: {listed(missing)}; put them there, or leave them out with "
            "--skip-bad (skip_bad=True)"
        )
    if missing:
        notes.append(f"{counted(len(missing), 'missing file')} left out: {listed(missing)}")

    pictures = Pictures(tuple(_path(folder, n) for n in columns.files), columns.sizes)
    pictures, headers_bad = _hold_against_headers(pictures, np.flatnonzero(there), notes, skip_bad)
    good = np.setdiff1d(np.flatnonzero(there), list(headers_bad))
    bad = headers_bad
    if skip_bad:
        bad = headers_bad | _undecodable(pictures, good)
        good = np.setdiff1d(good, list(bad))
    if bad and not skip_bad:
        raise InputError(_told(bad, columns))
    if bad:
        names = listed(columns.files[i] for i in sorted(bad))
        notes.append(f"{counted(len(bad), 'unreadable or unfit file')} left out: {names}")
    if not len(good):
        raise InputError(f"{columns.path}: none of its images can be used; {notes[-1]}")
    return Found(pictures, good, tuple(notes))


def _path(folder: Path, name: str) -> str:
    # Strings, since a Path for each of 100,000 files takes a second.
    name = name.replace("\\", "/")
    absolute = name.startswith("/") or name[1:2] == ":"
    return name if absolute else f"{folder}/{name}"


def _folder(columns: CocoColumns, folders: Sequence[Path]) -> tuple[Path, NDArray[np.bool_]]:
    """The folder with most of the files, and which of them it has."""
    listings: dict[str, frozenset[str]] = {}

    def has(path: str) -> bool:
        parent, _, name = path.rpartition("/")
        if parent not in listings:
            there = Path(parent).iterdir() if Path(parent).is_dir() else ()
            listings[parent] = frozenset(p.name for p in there)
        return name in listings[parent]

    best, most = folders[0], np.zeros(len(columns.files), dtype=np.bool_)
    for folder in folders:
        there = np.array([has(_path(folder, name)) for name in columns.files], dtype=np.bool_)
        if there.sum() > most.sum():
            best, most = folder, there
        if most.all():
            break
    return best, most


class _Header(NamedTuple):
    """(height, width) of a file as it is stored, and after its EXIF turn."""

    stored: tuple[int, int]
    upright: tuple[int, int]


def _hold_against_headers(
    pictures: Pictures, there: NDArray[np.intp], notes: list[str], skip_bad: bool
) -> tuple[Pictures, dict[int, str]]:
    """The pictures with unknown sizes filled in, and what is wrong with which."""
    unknown = pictures.sizes[there, 0] < 0
    chosen = there
    if len(there) > _ALL_HEADERS and not skip_bad:
        sample = np.linspace(0, len(there) - 1, _SAMPLE).astype(np.intp)
        chosen = np.union1d(there[sample], there[unknown])
    sizes = pictures.sizes.copy()
    bad: dict[int, str] = {}
    as_stored = upright = 0
    headers = _map(_header, [pictures.paths[i] for i in chosen])
    for index, header in zip(chosen, headers, strict=True):
        if isinstance(header, InputError):
            bad[int(index)] = _what(header)
            continue
        told = int(sizes[index, 0]), int(sizes[index, 1])
        if told[0] < 0:
            sizes[index] = header.upright
        elif told not in (header.stored, header.upright):
            (height, width), (annotated_height, annotated_width) = header.stored, told
            bad[int(index)] = (
                f"{pictures.paths[index]} is {width} × {height} pixels, "
                f"not {annotated_width} × {annotated_height}"
            )
        elif header.stored != header.upright:
            as_stored += told == header.stored
            upright += told == header.upright
    if unknown.any():
        notes.append(
            f"{counted(int(unknown.sum()), 'image')} without width and height, read from the files"
        )
    if as_stored:
        notes.append(
            f"{counted(as_stored, 'image')} annotated without the EXIF turn, taken as stored"
        )
    return replace(pictures, sizes=sizes, as_stored=bool(as_stored and not upright)), bad


def _header(path: str) -> _Header:
    with reading(path), Image.open(path) as image:
        width, height = image.size
        # A PNG without EXIF before its pixels would be decoded in the search for more.
        seek = image.format != "PNG" or "exif" in image.info
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1) if seek else 1
    upright = (width, height) if orientation in (5, 6, 7, 8) else (height, width)
    return _Header((height, width), upright)


def _undecodable(pictures: Pictures, indices: NDArray[np.intp]) -> dict[int, str]:
    read = _map(lambda i: pictures.read(i).size, indices.tolist())
    return {
        int(index): _what(result)
        for index, result in zip(indices, read, strict=True)
        if isinstance(result, InputError)
    }


def _what(problem: InputError) -> str:
    """The problem without its advice, which stands once below ten of them."""
    return str(problem).rpartition("; ")[0]


def _map(work: Callable[[T], R], things: Sequence[T]) -> list[R | InputError]:
    """What work returns for each thing, or the InputError it raised; with several threads."""

    def attempt(thing: T) -> R | InputError:
        try:
            return work(thing)
        except InputError as problem:
            return problem

    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(attempt, things))


def _told(bad: dict[int, str], columns: CocoColumns) -> str:
    return (
        f"{columns.path}: {counted(len(bad), 'file')} cannot be used: "
        f"{listed(bad[i] for i in sorted(bad))}; mend them, or leave them out with --skip-bad "
        "(skip_bad=True)"
    )
