import numpy as np
import pytest
import torch
from scipy import stats

from sgekit.analysis.alignment import align
from sgekit.analysis.tally import BLOCKS, Tally, block_of
from sgekit.explanation.measures import findings, own_parts, part_score, wilson

REGIONS = ("whole", "left", "right", "absent")
PARTS = REGIONS[1:]


def tally(maps: torch.Tensor, batch: int = 16) -> Tally:
    """Of maps (N, G, 6, 6) with a part at the left and one at the right, at places of their own."""
    generator = torch.Generator().manual_seed(0)
    found = Tally()
    for first in range(0, len(maps), batch):
        some = maps[first : first + batch]
        found.add(align(some, cover(len(some), first), generator), 36, first)
    return found


def cover(images: int, first: int = 0) -> torch.Tensor:
    cells = torch.zeros(images, 4, 6, 6)
    for image in range(images):
        row = (first + image) % 6
        cells[image, 1, row, 0] = 1
        cells[image, 2, 5 - row, 5] = 1
        cells[image, 0] = cells[image, 1] + cells[image, 2]
    return cells


def maps(images: int = 120) -> torch.Tensor:
    """Group 0 finds the left part always, group 1 the right in six of seven, the rest noise."""
    torch.manual_seed(0)
    values = torch.rand(images, 12, 6, 6) * 0.5
    parts = cover(images)
    values[:, 0] += parts[:, 1]
    hit = torch.arange(images) % 7 > 0
    values[hit, 1] += parts[hit, 2]
    return values


def test_who_finds_what_and_who_does_not() -> None:
    rows = findings({"layer": tally(maps())}, REGIONS, PARTS)
    assert {row.region for row in rows} == {"whole", "left", "right"}  # the absent one has no row
    own = own_parts(rows, PARTS)
    assert own == {("layer", 0): "left", ("layer", 1): "right"}
    first = next(row for row in rows if (row.group, row.region) == (0, "left"))
    assert (first.pointing, first.images, first.significant) == (1, 120, True)
    assert first.chance == pytest.approx(1 / 36)
    assert first.auroc == 1
    assert first.pointing_low == pytest.approx(wilson(np.array([1.0]), 120)[0][0])
    noise = [row for row in rows if row.group > 1 and row.region in PARTS]
    assert not any(row.significant for row in noise)
    assert np.mean([row.auroc_low < 0.5 < row.auroc_high for row in noise]) > 0.8


def test_the_score_is_that_of_the_parts_above_chance() -> None:
    score = part_score({"layer": tally(maps())}, REGIONS, PARTS)
    assert score is not None
    left, right = score.parts
    assert (left.groups, right.groups) == ((0, 0), (1, 1))
    assert (left.pointing, left.score) == (1, 1)
    assert right.pointing == pytest.approx(6 / 7, abs=0.02)
    assert right.chance == pytest.approx(1 / 36)
    assert score.score == pytest.approx((left.score + right.score) / 2)
    assert score.low is not None
    assert score.high is not None
    assert score.low < score.score < score.high
    assert score.found == 2


def test_the_best_of_many_noises_scores_about_nothing() -> None:
    torch.manual_seed(1)
    noise = {str(n): tally(torch.rand(200, 64, 6, 6)) for n in range(3)}
    score = part_score(noise, REGIONS, PARTS)
    assert score is not None
    assert abs(score.score) < 0.05
    assert not own_parts(findings(noise, REGIONS, PARTS), PARTS)


def test_a_layer_whose_every_cell_holds_a_part_is_passed_over() -> None:
    generator = torch.Generator().manual_seed(0)
    coarse = Tally()
    cells = torch.full((40, 4, 1, 2), 0.4)
    coarse.add(align(torch.rand(40, 2, 1, 2), cells, generator), 2, 0)
    score = part_score({"coarse": coarse, "fine": tally(maps())}, REGIONS, PARTS)
    assert score is not None
    assert all(part.layers == ("fine", "fine") for part in score.parts[:2])
    assert part_score({"coarse": coarse}, REGIONS, PARTS) is None


def test_the_p_value_is_the_binomials_where_all_chances_are_one() -> None:
    rows = findings({"layer": tally(maps())}, REGIONS, PARTS)
    for row in rows:
        if row.region == "left":
            hits = round(row.pointing * row.images)
            expected = stats.binom.sf(hits - 1, row.images, 1 / 36)
            assert row.p == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_few_images_have_a_score_without_interval() -> None:
    score = part_score({"layer": tally(maps(4))}, REGIONS, PARTS)
    assert score is not None
    assert score.low is None
    assert part_score({"layer": tally(maps(1))}, REGIONS, PARTS) is None


def test_blocks_are_by_lot_and_no_class_is_in_one_half_alone() -> None:
    numbers = torch.arange(12_000)
    blocks = block_of(numbers)
    counts = torch.bincount(blocks, minlength=BLOCKS)
    assert counts.min() > 1100
    assert counts.max() < 1300
    for period in (2, 3, 10, 12):
        for turn in range(period):
            share = (blocks[turn::period] % 2).double().mean()
            assert abs(float(share) - 0.5) < 0.05
    found = tally(maps(25), batch=7)
    assert found.images is not None
    expected = torch.bincount(block_of(torch.arange(25)), minlength=BLOCKS)
    assert found.images[:, 1].tolist() == expected.tolist()
    assert found.count.tolist() == [25, 25, 25, 0]


def test_the_interval_is_about_that_of_a_share() -> None:
    torch.manual_seed(2)
    images = 400
    values = torch.rand(images, 3, 6, 6) * 0.5
    hit = torch.rand(images) < 0.6
    values[hit, 0] += cover(images)[hit, 1]
    score = part_score({"layer": tally(values)}, REGIONS, ("left",))
    assert score is not None
    assert score.low is not None
    assert score.high is not None
    wide = 2 * 1.96 * (0.6 * 0.4 / images) ** 0.5
    assert 0.5 * wide < score.high - score.low < 2 * wide
    assert score.low < 0.6 < score.high + 0.05


def test_wilson() -> None:
    low, high = wilson(np.array([0.5, 0.0]), 10)
    assert (low[0], high[0]) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert (low[1], high[1]) == pytest.approx((0, 0.2775), abs=1e-4)
