"""Image folders: one folder a class, with or without train and val above them."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from timm.data.readers.reader_image_folder import find_images_and_targets

from sgekit.data.contract import ImageData
from sgekit.data.decode import check_headers, decode, unreadable
from sgekit.data.splits import Part, choose_val, hold_out, leave_out, split_of
from sgekit.errors import InputError

EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_LAYOUT = "expected train/<class>/*.jpg and val/<class>/*.jpg, or <class>/*.jpg"
# Opening a file's header costs about 0.1 ms; from here on that would be felt.
_HEADERS_CHECKED = 50_000


@dataclass(frozen=True)
class FolderSplit:
    """Image files and their class indices; a file is decoded when asked for."""

    paths: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return decode(self.paths[index], self.paths[index]), self.labels[index]

    def source(self, index: int) -> str:
        """The file's path."""
        return self.paths[index]


def open_folder(
    path: Path, *, skip_bad: bool, eval_split: str | None, val_fraction: float
) -> ImageData:
    """Open an image folder (see `open_data`).

    A class is the name of the folder that holds the image, as in timm; hidden files and files
    with other endings than `EXTENSIONS` are no part of it.
    """
    found: dict[str, Path] = {}
    for child in sorted(p for p in path.iterdir() if p.is_dir()):
        split = split_of(child.name)
        if split is not None and _holds_folders(child):
            found[split] = child
    val_name = choose_val(found, eval_split, str(path))
    if "train" not in found:
        if val_name is not None:
            raise InputError(f"{path} has {val_name}/ but no train/; {_LAYOUT}")
        found = {"train": path}

    whole, classes = _read(found["train"], None)
    if len(classes) < 2:
        raise InputError(
            f"{found['train']} has one class only ({next(iter(classes))}); two or more are needed"
        )
    if all(split_of(name) for name in classes):
        raise InputError(f"{path}: {', '.join(classes)} hold no class folders; {_LAYOUT}")
    train, skipped = _checked(whole, skip_bad)
    if val_name is None:
        labels = [whole.labels[i] for i in train.indices] if isinstance(train, Part) else None
        kept, held, val_name = hold_out(labels or whole.labels, val_fraction)
        return ImageData(
            name=path.resolve().name,
            kind="folder",
            classes=tuple(classes),
            train=Part(train, kept),
            val=Part(train, held),
            val_name=val_name,
            skipped=skipped,
        )
    val, also_skipped = _checked(_read(found[val_name], classes)[0], skip_bad)
    return ImageData(
        name=path.resolve().name,
        kind="folder",
        classes=tuple(classes),
        train=train,
        val=val,
        val_name=val_name,
        skipped=skipped + also_skipped,
    )


def _holds_folders(folder: Path) -> bool:
    return any(child.is_dir() for child in folder.iterdir())


def _read(folder: Path, classes: dict[str, int] | None) -> tuple[FolderSplit, dict[str, int]]:
    """The images below folder; with classes given, InputError for a class not among them."""
    samples, found = find_images_and_targets(str(folder), types=set(EXTENSIONS))
    names = {index: name for name, index in found.items()}
    kept = [(p, names[t]) for p, t in samples if not Path(p).name.startswith(".")]
    if not kept:
        endings = " ".join(EXTENSIONS)
        raise InputError(f"{folder} has no images ({endings}); {_LAYOUT}")
    loose = next((p for p, name in kept if not name), None)
    if loose is not None:
        raise InputError(f"{loose} is in no class folder; {_LAYOUT}")
    if classes is None:
        present = {name for _, name in kept}
        classes = {name: i for i, name in enumerate(n for n in found if n in present)}
    strange = sorted({name for _, name in kept if name not in classes})
    if strange:
        raise InputError(
            f"{folder} has classes that train lacks: {', '.join(strange[:5])}"
            f"{' …' if len(strange) > 5 else ''}; rename or remove them"
        )
    split = FolderSplit(tuple(p for p, _ in kept), tuple(classes[name] for _, name in kept))
    return split, classes


def _checked(split: FolderSplit, skip_bad: bool) -> tuple[FolderSplit | Part, tuple[str, ...]]:
    if not skip_bad:
        if len(split) <= _HEADERS_CHECKED:
            check_headers(split.paths)
        return split, ()
    return leave_out(split, unreadable)
