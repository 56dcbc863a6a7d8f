"""Where a folder keeps its COCO JSON, which split each file tells, and where its images lie."""

import re
from collections.abc import Iterable
from pathlib import Path

from sgekit.data.splits import choose_val, split_of
from sgekit.errors import InputError

LAYOUT = (
    "expected annotations/instances_train.json and instances_val.json beside train/ and val/, "
    "COCO's train2017/ and val2017/, or train/_annotations.coco.json and valid/…"
)
_KEYS = re.compile(rb'"(images|annotations|categories|image_id|bbox)"\s*:')
_LOOK = 1 << 16


def find_json(root: Path) -> list[Path]:
    """The COCO JSON of a folder, in the first of the three places that has any.

    annotations/ (instances_*.json alone if there are such: COCO keeps captions and key points
    beside them); then folders called train, val, … (as Roboflow writes them); then root itself.
    """
    found = _coco(root / "annotations")
    if instances := [path for path in found if path.name.startswith("instances")]:
        return instances
    if found:
        return found
    folders = [path for path in _folders(root) if split_of(path.name)]
    return [path for folder in folders for path in _coco(folder)] or _coco(root)


def choose_json(root: Path, eval_split: str | None) -> tuple[Path, Path | None, str | None]:
    """The JSON to train on, the one to validate on and its split's name; None, None to hold out.

    InputError where there is no JSON, none to train on, or several for one split.
    """
    files = find_json(root)
    if not files:
        raise InputError(f"{root} has no COCO JSON; {LAYOUT}")
    found: dict[str, Path] = {}
    for path in files:
        # One file that tells no split is all there is; among others it is none of them.
        split = split_told(root, path) or ("train" if len(files) == 1 else None)
        if split is None:
            continue
        if split in found:
            raise InputError(
                f"{root} has two files for {split}: {found[split].name} and {path.name}; "
                "leave one of them there"
            )
        found[split] = path
    val_name = choose_val(found, eval_split, str(root))
    if "train" not in found:
        there = ", ".join(str(path.relative_to(root)) for path in files)
        raise InputError(f"{root} has no JSON to train on among {there}; {LAYOUT}")
    return found["train"], found[val_name] if val_name else None, val_name


def split_told(root: Path, path: Path) -> str | None:
    """The split in a JSON's name (instances_train2017.json) or else in its folder's."""
    words = re.split(r"[_\-.]", path.stem)
    return split_of(*words) or (split_of(path.parent.name) if path.parent != root else None)


def image_folders(root: Path, path: Path) -> list[Path]:
    """Folders that the file names of a JSON may be relative to, the likeliest first."""
    tokens = re.split(r"[_\-.]", path.stem)
    split = split_told(root, path)
    likely = [root / token for token in tokens] + [root / "images" / token for token in tokens]
    alike = [
        folder
        for parent in (root, root / "images")
        for folder in _folders(parent)
        if split and split_of(folder.name) == split
    ]
    own = [path.parent, path.parent / "images"]
    rest = [root / "images", root]
    first = own if path.parent not in (root, root / "annotations") else []
    return [p for p in dict.fromkeys([*first, *likely, *alike, *rest, *own]) if p.is_dir()]


def _folders(parent: Path) -> Iterable[Path]:
    return sorted(p for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else ()


def _coco(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.json")) if _looks_like_coco(path)]


def _looks_like_coco(path: Path) -> bool:
    """By name, or by two of COCO's keys in the first and last 64 KiB; reads no more of it."""
    if path.name.startswith("."):
        return False
    if path.name.startswith("instances") or path.name == "_annotations.coco.json":
        return True
    try:
        with path.open("rb") as file:
            text = file.read(_LOOK)
            file.seek(max(file.tell(), path.stat().st_size - _LOOK))
            text += file.read()
    except OSError:
        # Opening it will say what is wrong with it.
        return True
    return text.lstrip(b"\xef\xbb\xbf \r\n\t")[:1] == b"{" and len(set(_KEYS.findall(text))) > 1
