"""Whether groups go on looking at the same things when the picture is disturbed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from timm.data.constants import IMAGENET_DEFAULT_STD
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from sgekit.analysis.alignment import coverage
from sgekit.analysis.capture import GateRecord
from sgekit.explanation.look import batches, labels_of
from sgekit.explanation.measures import LEVEL
from sgekit.explanation.subject import Classifier, Item

NOISE = 0.1
"""Standard deviation of the noise, as a share of the brightness range."""
CROP = 7 / 8
"""Side of the central square that is enlarged to the whole picture."""
_LOOKALIKE = 0.5
# A gate that spans less is a constant with rounding; it has no places to keep.
_FLAT = 1e-4

Disturbed = tuple[Tensor, Tensor | None]
"""Pictures (B, 3, S, S) and which cells may be compared, (B, 1, S, S), None for all."""


@dataclass(frozen=True)
class Stability:
    """Of one disturbance: ``correlation`` of gates over positions, with and without it, the mean
    over groups, layers and images with its 95 % interval, NaN where it has none; ``accuracy`` with
    it (None without labels); ``pull``, of pasted look-alikes: the mean gate on them over that of
    the rest of the background."""

    name: str
    images: int
    correlation: float
    low: float
    high: float
    accuracy: float | None
    pull: float | None = None


@dataclass
class _Sums:
    correlations: list[float] = field(default_factory=list)
    pulls: list[float] = field(default_factory=list)
    correct: int = 0
    labelled: int = 0


def stability(
    subject: Classifier,
    count: int,
    item: Callable[[int], Item],
    whole: int | None,
    *,
    batch_size: int = 32,
) -> list[Stability]:
    """Disturb ``count`` pictures in every way that they allow.

    Noise and an enlarged centre always; with ``whole``, the number of the region of the object
    among the items' masks, also what the picture before gives: its object pasted beside at half
    its size, and its background (where its own object is filled with that background's mean
    colour). The first entry is the undisturbed picture.
    """
    sums: dict[str, _Sums] = {}
    generator = torch.Generator().manual_seed(0)
    before: Item | None = None
    for _, items in batches(count, item, batch_size, []):
        inputs = torch.stack([one.inputs for one in items])
        labels = labels_of(items, len(subject.classes))
        plain, logits = subject.run(inputs)
        _count(sums.setdefault("none", _Sums()), logits, labels)
        for name, (pictures, valid) in _disturbed(items, before, whole, generator).items():
            records, logits = subject.run(pictures)
            entry = sums.setdefault(name, _Sums())
            _count(entry, logits, labels)
            entry.correlations += _correlations(plain, records, valid, name == "crop")
            if name == "look-alike" and valid is not None and whole is not None:
                entry.pulls += _pulls(records, valid, _objects(items, whole))
        before = items[-1]
    return [_told(name, entry) for name, entry in sums.items()]


def _disturbed(
    items: Sequence[Item], before: Item | None, whole: int | None, generator: torch.Generator
) -> dict[str, Disturbed]:
    inputs = torch.stack([one.inputs for one in items])
    deviation = NOISE / torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]
    noise = torch.randn(inputs.shape, generator=generator) * deviation
    found: dict[str, Disturbed] = {
        "noise": (inputs + noise, None),
        "crop": (_centre(inputs, inputs.shape[2:]), None),
    }
    if whole is not None:
        # The first of all has none before it: it takes the last of its batch, or, alone, itself.
        others = [before or items[-1], *items[:-1]]
        other = torch.stack([one.inputs for one in others])
        objects, their = _objects(items, whole), _objects(others, whole)
        found["look-alike"] = _pasted(inputs, objects, other, their)
        found["background"] = (_moved(inputs, objects, other, their), objects)
    return found


def _objects(items: Sequence[Item], whole: int) -> Tensor:
    """(B, 1, S, S): 1 on the object."""
    return torch.stack([one.masks[whole][None].float() for one in items if one.masks is not None])


def _centre(maps: Tensor, size: Sequence[int]) -> Tensor:
    """The central CROP of (B, C, h, w), resampled to ``size``; the crop's edges may cut cells."""
    steps = [torch.linspace(-CROP, CROP, 2 * n + 1)[1::2] for n in size]
    rows, columns = torch.meshgrid(*steps, indexing="ij")
    grid = torch.stack((columns, rows), 2).expand(maps.shape[0], -1, -1, -1).to(maps)
    found: Tensor = grid_sample(maps, grid, padding_mode="border", align_corners=False)
    return found


def _pasted(inputs: Tensor, objects: Tensor, other: Tensor, their: Tensor) -> Disturbed:
    """The other picture's object at half size, in the corner that holds least of one's own."""
    half = [int(side * _LOOKALIKE) for side in inputs.shape[2:]]
    others = interpolate(other, size=half, mode="bilinear", antialias=True)
    shapes = interpolate(their, size=half, mode="nearest")
    pictures, valid = inputs.clone(), torch.ones_like(objects)
    for number in range(len(inputs)):
        corner = min(
            _corners(half, inputs.shape[2:]), key=lambda c: float(objects[number][0][c].sum())
        )
        free = shapes[number][0] * (1 - objects[number][0][corner])
        area = pictures[number][:, corner[0], corner[1]]
        pictures[number][:, corner[0], corner[1]] = area * (1 - free) + others[number] * free
        valid[number][0][corner] = 1 - free
    return pictures, valid


def _corners(half: Sequence[int], size: Sequence[int]) -> list[tuple[slice, slice]]:
    starts = [(0, full - part) for part, full in zip(half, size, strict=True)]
    return [
        (slice(top, top + half[0]), slice(left, left + half[1]))
        for top in starts[0]
        for left in starts[1]
    ]


def _moved(inputs: Tensor, objects: Tensor, other: Tensor, their: Tensor) -> Tensor:
    """Each object on the other picture's background."""
    ground = 1 - their
    area = ground.sum((2, 3), keepdim=True).clamp_min(1)
    empty = other * ground + (other * ground).sum((2, 3), keepdim=True) / area * their
    return inputs * objects + empty * (1 - objects)


def _count(entry: _Sums, logits: Tensor | None, labels: Tensor | None) -> None:
    if labels is not None and logits is not None:
        entry.labelled += int((labels >= 0).sum())
        entry.correct += int((logits.argmax(1).cpu() == labels).sum())


def _correlations(
    plain: Mapping[str, GateRecord],
    records: Mapping[str, GateRecord],
    valid: Tensor | None,
    cropped: bool,
) -> list[float]:
    """Of each image, the mean over layers and groups; NaN where all gates are constant."""
    found: list[Tensor] = []
    for name, record in records.items():
        one, other = plain[name].gate.cpu(), record.gate.cpu()
        if cropped:
            one = _centre(one, one.shape[2:])
        weight = torch.ones_like(one[:, :1])
        if valid is not None:
            weight = (_on(valid, one) > 0.5).float()
        found.append(_pearson(one, other, weight))
    return [float(value) for value in torch.cat(found, 1).nanmean(1)]


def _on(mask: Tensor, maps: Tensor) -> Tensor:
    return coverage(mask, (maps.shape[2], maps.shape[3]))


def _pearson(one: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """(B, G): over the positions with weight 1; NaN where either is constant there."""
    count = weight.sum((2, 3)).clamp_min(1)

    def centred(values: Tensor) -> Tensor:
        mean = (values * weight).sum((2, 3)) / count
        return (values - mean[..., None, None]) * weight

    a, b = centred(one), centred(other)
    square_a, square_b = a.square().sum((2, 3)), b.square().sum((2, 3))
    flat = (square_a < count * _FLAT**2) | (square_b < count * _FLAT**2)
    value = (a * b).sum((2, 3)) / (square_a * square_b).sqrt().clamp_min(1e-30)
    return torch.where(flat, torch.nan, value)


def _pulls(records: Mapping[str, GateRecord], valid: Tensor, objects: Tensor) -> list[float]:
    """Of each image the mean gate on the look-alike over that on the rest of the background."""
    found = []
    for record in records.values():
        gate = record.gate.cpu().mean(1, keepdim=True)
        pasted = _on(1 - valid, gate)
        ground = _on(valid * (1 - objects), gate)
        on = (gate * pasted).sum((2, 3)) / pasted.sum((2, 3))
        off = (gate * ground).sum((2, 3)) / ground.sum((2, 3))
        found.append(on / off)
    return [float(value) for value in torch.cat(found, 1).nanmean(1)]


def _told(name: str, entry: _Sums) -> Stability:
    values = np.array([v for v in entry.correlations if np.isfinite(v)])
    mean, reach = (float(values.mean()), np.nan) if len(values) else (np.nan, np.nan)
    if len(values) > 1:
        scale = float(values.std(ddof=1)) / len(values) ** 0.5
        reach = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1)) * scale
    pulls = [value for value in entry.pulls if np.isfinite(value)]
    return Stability(
        name,
        len(values),
        mean,
        float(np.maximum(-1.0, mean - reach)),  # which keep NaN
        float(np.minimum(1.0, mean + reach)),
        entry.correct / entry.labelled if entry.labelled else None,
        float(np.mean(pulls)) if pulls else None,
    )
