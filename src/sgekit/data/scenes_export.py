"""The built-in scenes on disk: image folder, COCO JSON and part masks."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sgekit.data.creatures import PARTS
from sgekit.data.scenes import SPLITS, Scene, SceneConfig, draw_scene
from sgekit.errors import InputError


def write_scenes(
    config: SceneConfig, out: str | Path, *, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Draw every scene below the folder out, which is new or empty, and return it.

    train/<class>/000017.png and val/…, which `open_data` reads; annotations/instances_train.json
    and instances_val.json in COCO's form, file names relative to the split's folder, boxes in
    pixels as x, y, width, height, masks as uncompressed run lengths; part_masks/<split>/000017.png
    with the part's number in every pixel, told by part_masks/parts.json (0 is the background).
    The categories' ids count from 1, as in COCO.

    progress(done, of) is called after every scene. InputError where out holds files already or
    cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not an empty folder; name a new one")
    try:
        _write(config, out, progress)
    except OSError as problem:
        raise InputError(f"cannot write the scenes to {out}: {problem}") from problem
    return out


def _write(config: SceneConfig, out: Path, progress: Callable[[int, int], None] | None) -> None:
    done, total = 0, config.train + config.val
    for split in SPLITS:
        for name in config.classes:
            (out / split / name).mkdir(parents=True)
        (out / "part_masks" / split).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for index in range(config.count(split)):
            scene = draw_scene(config, split, index)
            file = f"{config.classes[scene.label]}/{index:06d}.png"
            Image.fromarray(scene.image).save(out / split / file)
            Image.fromarray(scene.part_index).save(out / "part_masks" / split / f"{index:06d}.png")
            images.append(
                {
                    "id": index + 1,
                    "file_name": file,
                    "width": config.image_size,
                    "height": config.image_size,
                }
            )
            annotations.append(_annotation(scene, index + 1))
            done += 1
            if progress is not None:
                progress(done, total)
        (out / "annotations").mkdir(exist_ok=True)
        _write_json(
            out / "annotations" / f"instances_{split}.json",
            {
                "info": {"description": f"sgekit scenes, seed {config.seed}, {split}"},
                "licenses": [],
                "images": images,
                "annotations": annotations,
                "categories": [
                    {"id": number, "name": name, "supercategory": "creature"}
                    for number, name in enumerate(config.classes, 1)
                ],
            },
        )
    numbers = {name: number for number, name in enumerate(PARTS, 1)}
    _write_json(out / "part_masks" / "parts.json", {"background": 0, **numbers})


def _annotation(scene: Scene, number: int) -> dict[str, Any]:
    """The one creature of image `number`, as a COCO instance."""
    x0, y0, x1, y1 = scene.box
    return {
        "id": number,
        "image_id": number,
        "category_id": scene.label + 1,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(scene.mask.sum()),
        "iscrowd": 0,
        "segmentation": {"size": list(scene.mask.shape), "counts": run_lengths(scene.mask)},
    }


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """COCO's uncompressed run lengths of an (H, W) mask: column by column, the first run is 0s."""
    flat = mask.ravel(order="F")
    turns = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate(([0], turns, [flat.size]))
    runs = [int(n) for n in np.diff(edges)]
    return [0, *runs] if flat.size and flat[0] else runs


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
