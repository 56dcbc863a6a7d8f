"""On which evaluation images a contender gains and loses most against the baseline."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sgekit.comparison.examples import counted, short_source
from sgekit.comparison.found import LEVELS, Found, read_detections
from sgekit.data.coco_coder import coder
from sgekit.data.detection import DetectionData
from sgekit.detection.drawing import draw_detections
from sgekit.detection.matching import Floats

SHOWN = 3
"""How many images that gain, and how many that lose, are shown of each contender."""

_SIDE = 480
_GAP = 6
# Between the pictures, neither light nor dark, so that it suits both themes.
_GREY = "#8a929c"
# Means over seeds of equal F1 differ by rounding.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Strip:
    """One image three times: annotated, with what the baseline found, with what the contender did.

    ``before`` and ``after`` are the baseline's and the contender's F1, means over ``seeds`` seeds;
    the detections are those of ``seed``, whose two F1 are ``drawn``. ``words`` say what is drawn in
    each of the three.
    """

    image: Image.Image
    source: str
    before: float
    after: float
    seeds: int
    seed: int
    drawn: tuple[float, float]
    words: tuple[str, str, str]


@dataclass(frozen=True)
class Gains:
    """Numbers of images with a larger, smaller and equal F1, and those that changed most."""

    attention: str
    gained: int
    lost: int
    equal: int
    better: tuple[Strip, ...]
    worse: tuple[Strip, ...]


@dataclass(frozen=True)
class _Change:
    index: int
    before: float
    after: float
    seed: int
    drawn: tuple[float, float]


def common_level(found: Found) -> float:
    """The score of `LEVELS` from which on all runs' detections together solve the images best.

    That is where the mean of F1 over runs and images is largest; of equals the nearest to 0.5. One
    level for all contenders: with levels of their own they would differ in what is shown as well.
    """
    solved = [run.solved for runs in found.runs.values() for run in runs.values()]
    if not solved:
        return 0.5
    mean = np.stack(solved).mean(axis=(0, 2)).round(12)
    nearest = np.argsort(np.abs(LEVELS - 0.5).round(12), kind="stable")
    return float(LEVELS[nearest[np.argmax(mean[nearest])]])


def gains(found: Found, baseline: str, level: float, data: DetectionData) -> list[Gains]:
    """For each contender with seeds in common with the baseline; ``level`` is one of `LEVELS`.

    The detections are read from the runs' folders. Raises `InputError` where they are gone.
    """
    at = int(np.argmin(np.abs(LEVELS - level)))
    base = {seed: run.solved[at] for seed, run in found.runs[baseline].items()}
    listed = []
    for name, runs in found.runs.items():
        seeds = sorted(runs.keys() & base.keys())
        if name == baseline or not seeds:
            continue
        mine = np.stack([runs[seed].solved[at] for seed in seeds])
        theirs = np.stack([base[seed] for seed in seeds])
        difference = (mine - theirs).mean(axis=0)
        better, worse = (
            [_change(index, mine, theirs, seeds) for index in most]
            for most in (_largest(difference), _largest(-difference))
        )
        drawn = iter(_drawn([*better, *worse], found, (baseline, name), level, data))
        gained = int((difference > _ROUNDING).sum())
        lost = int((difference < -_ROUNDING).sum())
        listed.append(
            Gains(
                name,
                gained,
                lost,
                len(difference) - gained - lost,
                tuple(next(drawn) for _ in better),
                tuple(next(drawn) for _ in worse),
            )
        )
    return listed


def _largest(values: Floats) -> list[int]:
    """Where the `SHOWN` largest stand, the largest first; equals in their order, none below 0."""
    order = np.argsort(-values, kind="stable")[:SHOWN]
    return [int(index) for index in order if values[index] > _ROUNDING]


def _change(index: int, mine: Floats, theirs: Floats, seeds: Sequence[int]) -> _Change:
    after, before = mine[:, index], theirs[:, index]
    change = after - before
    # The seed that is most like the mean: the first might show the opposite. Of two seeds both
    # are as near, and the one with the larger change shows what is told.
    distance = np.abs(change - change.mean()).round(12)
    chosen = int(np.lexsort((-np.abs(change).round(12), distance))[0])
    return _Change(
        index,
        float(before.mean()),
        float(after.mean()),
        seeds[chosen],
        (float(before[chosen]), float(after[chosen])),
    )


def _drawn(
    changes: Sequence[_Change],
    found: Found,
    pair: tuple[str, str],
    level: float,
    data: DetectionData,
) -> list[Strip]:
    ids = [int(found.image_ids[change.index]) for change in changes]
    wanted = {
        (name, change.seed, image_id)
        for change, image_id in zip(changes, ids, strict=True)
        for name in pair
    }
    entries: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for name, seed in sorted({(name, seed) for name, seed, _ in wanted}):
        # Once through each file: it may hold a hundred detections of every image.
        for entry in read_detections(found.runs[name][seed].folder):
            key = name, seed, int(entry["image_id"])
            if key in wanted and entry["score"] >= level:
                entries[key].append(entry)
    places = {data.val.image_id(index): index for index in range(len(data.val))}
    strips = []
    for change, image_id in zip(changes, ids, strict=True):
        image, target = data.val[places[image_id]]
        if found.kind == "box":
            # Shades on the annotation alone would make it look like another picture.
            target = replace(target, masks=None)
        labels, panels = [target.labels.tolist()], [draw_detections(image, target, data.classes)]
        for name in pair:
            shown = entries[name, change.seed, image_id]
            labels.append([int(entry["category_id"]) for entry in shown])
            panels.append(draw_detections(image, _prediction(shown), data.classes, threshold=level))
        annotated, before, after = (counted(some, data.classes) for some in labels)
        strips.append(
            Strip(
                _strip(panels),
                short_source(data.val, places[image_id]),
                change.before,
                change.after,
                len(found.runs[pair[0]].keys() & found.runs[pair[1]].keys()),
                change.seed,
                change.drawn,
                (annotated, before, after),
            )
        )
    return strips


def _prediction(entries: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Entries of COCO's result list as a detector returns them."""
    boxes = torch.tensor([entry["bbox"] for entry in entries], dtype=torch.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    prediction = {
        "boxes": boxes,
        "labels": torch.tensor([entry["category_id"] for entry in entries], dtype=torch.int64),
        "scores": torch.tensor([entry["score"] for entry in entries], dtype=torch.float64),
    }
    coded = [entry["segmentation"] for entry in entries if "segmentation" in entry]
    if coded:
        lengths = [{**one, "counts": one["counts"].encode("ascii")} for one in coded]
        flags = torch.from_numpy(np.ascontiguousarray(coder().decode(lengths)))
        prediction["masks"] = flags.permute(2, 0, 1)[:, None].float()
    return prediction


def _strip(panels: Sequence[Image.Image]) -> Image.Image:
    scale = _SIDE / max(panels[0].size)
    width, height = (max(1, round(side * scale)) for side in panels[0].size)
    strip = Image.new("RGB", (len(panels) * (width + _GAP) - _GAP, height), _GREY)
    for number, panel in enumerate(panels):
        small = panel.resize((width, height), Image.Resampling.LANCZOS)
        strip.paste(small, (number * (width + _GAP), 0))
    return strip
