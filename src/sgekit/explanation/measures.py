"""What the alignment of groups with regions allows to say: intervals, tests, one number."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from sgekit.analysis.tally import BLOCKS, Tally

LEVEL = 0.05
"""Of the false discovery rate, and one less the confidence of every interval."""
OWN = 0.5
"""A group has a part of its own if it points there in so many images, and above chance."""
GOOD = 0.8
"""A part is found by a group that points at it in this share of the images."""

_HALVES = (torch.arange(0, BLOCKS, 2), torch.arange(1, BLOCKS, 2))


@dataclass(frozen=True)
class Finding:
    """How well one group of one layer matches one region; fractions, 95 % intervals.

    ``chance`` is that of pointing at the region without following it, see `Tally.chance_of`.
    """

    layer: str
    group: int
    region: str
    images: int
    pointing: float
    pointing_low: float
    pointing_high: float
    chance: float
    p: float
    significant: bool
    auroc: float
    auroc_low: float
    auroc_high: float
    energy: float
    area: float
    iou: float
    iou_shuffled: float
    contrast: float


@dataclass(frozen=True)
class Found:
    """How often the best group points at a region, told by images that didn't choose it.

    The group with the most hits above chance in one half of the images is counted in the other,
    both ways; so the best of thousands isn't praised for its luck. Chance is the chosen group's
    own (`Tally.chance_of`), so that a map which is always high at the same place earns nothing.
    ``pointing``, ``chance`` and ``score`` = (pointing - chance) / (1 - chance) are means of
    both halves, ``low`` and ``high`` the interval of pointing. ``layers`` and ``groups`` are
    those chosen, often the same twice.
    """

    region: str
    layers: tuple[str, str]
    groups: tuple[int, int]
    images: int
    pointing: float
    low: float
    high: float
    chance: float
    score: float


@dataclass(frozen=True)
class PartScore:
    """``score`` is the mean of `Found.score` over the parts: 0 is chance, 1 always right. ``low``
    and ``high`` leave out one block of images after another (jackknife), the groups as they were
    chosen; None where images are too few. They tell of other images, not of other trainings."""

    score: float
    low: float | None
    high: float | None
    parts: tuple[Found, ...]

    @property
    def found(self) -> int:
        """How many parts some group points at in GOOD of the images or more."""
        return sum(part.pointing >= GOOD for part in self.parts)


def findings(
    tallies: Mapping[str, Tally], regions: Sequence[str], parts: Sequence[str]
) -> list[Finding]:
    """Every group of every layer with every region that was counted.

    ``significant`` after Benjamini and Hochberg over all groups and layers, for the ``parts``
    and for the other regions apart.
    """
    rows: list[Finding] = []
    for layer, tally in tallies.items():
        count = tally.count
        p = _p_values(tally)
        values = {
            name: tally.mean(name).numpy()
            for name in ("pointing", "auroc", "energy", "iou", "iou_shuffled", "contrast")
        }
        error = tally.error("auroc").numpy()
        chance, area = tally.chance_of().numpy(), tally.area.numpy()
        for number, region in enumerate(regions):
            images = int(count[number])
            if images == 0:
                continue
            width = float(stats.t.ppf(1 - LEVEL / 2, images - 1)) if images > 1 else np.nan
            low, high = wilson(values["pointing"][:, number], images)
            for group in range(len(low)):
                at = (group, number)
                reach = float(width * error[at])
                rows.append(
                    Finding(
                        layer,
                        group,
                        region,
                        images,
                        float(values["pointing"][at]),
                        float(low[group]),
                        float(high[group]),
                        float(chance[at]),
                        float(p[at]),
                        False,
                        float(values["auroc"][at]),
                        max(0.0, float(values["auroc"][at]) - reach),
                        min(1.0, float(values["auroc"][at]) + reach),
                        float(values["energy"][at]),
                        float(area[number]),
                        float(values["iou"][at]),
                        float(values["iou_shuffled"][at]),
                        float(np.exp(values["contrast"][at])),
                    )
                )
    return _corrected(rows, parts)


def _corrected(rows: list[Finding], parts: Sequence[str]) -> list[Finding]:
    result = list(rows)
    for wanted in (True, False):
        places = [i for i, row in enumerate(rows) if (row.region in parts) == wanted]
        if not places:
            continue
        adjusted = stats.false_discovery_control([rows[i].p for i in places])
        for place, p in zip(places, adjusted, strict=True):
            result[place] = replace(rows[place], significant=bool(p <= LEVEL))
    return result


def own_parts(rows: Sequence[Finding], parts: Sequence[str]) -> dict[tuple[str, int], str]:
    """(layer, group) to the part of its own: above chance, and in OWN of the images or more.

    Of several parts that a group points at so often, the one that it points at most.
    """
    best: dict[tuple[str, int], Finding] = {}
    for row in rows:
        if row.region in parts and row.significant and row.pointing >= OWN:
            key = (row.layer, row.group)
            if key not in best or row.pointing > best[key].pointing:
                best[key] = row
    return {key: row.region for key, row in best.items()}


def part_score(
    tallies: Mapping[str, Tally], regions: Sequence[str], parts: Sequence[str]
) -> PartScore | None:
    """The one number of a network; None where no part was seen in both halves of the images."""
    columns = [number for number, name in enumerate(regions) if name in parts]
    found = [
        part for number in columns if (part := _found(tallies, regions[number], number)) is not None
    ]
    if not found:
        return None
    score = float(np.mean([part.score for part in found]))
    some = next(iter(tallies.values())).images
    if some is None or not bool((some[:, columns].sum(1) > 0).all()):
        return PartScore(score, None, None, tuple(found))
    pseudo = []
    for block in range(BLOCKS):
        left = [_judged(tallies, part, regions.index(part.region), without=block) for part in found]
        pseudo.append(BLOCKS * score - (BLOCKS - 1) * float(np.mean(left)))
    if not np.isfinite(pseudo).all():  # a part is in one block of a half only
        return PartScore(score, None, None, tuple(found))
    reach = float(stats.t.ppf(1 - LEVEL / 2, BLOCKS - 1) * np.std(pseudo, ddof=1) / BLOCKS**0.5)
    return PartScore(score, max(-1.0, score - reach), min(1.0, score + reach), tuple(found))


def _judged(tallies: Mapping[str, Tally], part: Found, number: int, without: int) -> float:
    """The part's score with the groups as they were chosen, and one block of images left out.

    The choice stands: another group's being chosen would jump, which a jackknife can't take.
    """
    scores = []
    for half, layer, group in zip(_HALVES[::-1], part.layers, part.groups, strict=True):
        rest, tally = half[half != without], tallies[layer]
        luck = float(tally.chance_of(rest)[group, number])
        scores.append((float(tally.mean("pointing", rest)[group, number]) - luck) / (1 - luck))
    return float(np.mean(scores))


def _found(tallies: Mapping[str, Tally], region: str, number: int) -> Found | None:
    chosen: list[tuple[str, int]] = []
    pointing: list[float] = []
    chance: list[float] = []
    images = 0
    for choose, judge in (_HALVES, _HALVES[::-1]):
        best: tuple[float, str, int] | None = None
        for layer, tally in tallies.items():
            luck = tally.chance_of(choose)[:, number]
            # NaN without images; 1 where the map is so coarse that every cell holds a part, and
            # where group and part never move.
            if not bool((luck < 1).any()):
                continue
            # Not relative to 1 - luck: where little is left to gain, luck would choose.
            gain = torch.where(luck < 1, tally.mean("pointing", choose)[:, number] - luck, -1)
            leader = int(gain.argmax())
            if best is None or float(gain[leader]) > best[0]:
                best = (float(gain[leader]), layer, leader)
        if best is None:
            return None
        _, name, index = best
        tally = tallies[name]
        assert tally.images is not None
        images += int(tally.images[judge].sum(0)[number])
        chosen.append((name, index))
        pointing.append(float(tally.mean("pointing", judge)[index, number]))
        chance.append(float(tally.chance_of(judge)[index, number]))
    if not np.isfinite([*pointing, *chance]).all() or max(chance) >= 1:
        return None
    mean = float(np.mean(pointing))
    low, high = wilson(np.array([mean]), images)
    scores = [(hit - luck) / (1 - luck) for hit, luck in zip(pointing, chance, strict=True)]
    return Found(
        region,
        (chosen[0][0], chosen[1][0]),
        (chosen[0][1], chosen[1][1]),
        images,
        mean,
        float(low[0]),
        float(high[0]),
        float(np.mean(chance)),
        float(np.mean(scores)),
    )


def wilson(
    share: NDArray[np.float64], images: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Wilson's interval of a share of so many images (JASA 22, 1927)."""
    z = float(stats.norm.ppf(1 - LEVEL / 2))
    centre = (share + z * z / (2 * images)) / (1 + z * z / images)
    reach = (
        z
        / (1 + z * z / images)
        * np.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    )
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


def _p_values(tally: Tally) -> NDArray[np.float64]:
    """(G, R): the chance of as many hits or more without following the region.

    The larger of two: if every image's positions were shuffled (exact), and if each map came from
    another image (binomial with the mean chance: images differ in theirs, which makes the number
    of hits vary less, so the test is a cautious one).
    """
    hits = tally.sums["pointing"].sum(0).numpy()
    p = np.ones_like(hits)
    habit = tally.habit_of().clamp(0, 1).numpy()
    for region, cells in enumerate(tally.cells):
        tail = _tail(cells)
        # Shared first places count in part; less than a whole hit is none.
        whole = np.floor(hits[:, region] + 1e-6).astype(np.int64)
        p[:, region] = tail[np.clip(whole, 0, len(tail) - 1)]
        swapped = stats.binom.sf(whole - 1, int(tally.count[region]), habit[:, region])
        p[:, region] = np.fmax(p[:, region], swapped)
    return p


def _tail(cells: Mapping[tuple[int, int], int]) -> NDArray[np.float64]:
    """P(hits >= k) for k from 0, of images whose chances are held/cells, counted."""
    density = np.ones(1)
    for (held, count), images in cells.items():
        one = stats.binom.pmf(np.arange(images + 1), images, held / count)
        density = np.convolve(density, one)
    tail: NDArray[np.float64] = np.clip(np.cumsum(density[::-1])[::-1], 0, 1)
    return tail
