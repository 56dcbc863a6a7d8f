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
        found.add(align(some, cover(len(some), first), generator), first)
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
    # It points at each of six cells in a sixth of the images, as the part is in them.
    assert first.chance == pytest.approx((6 * 20 * 20 - 120) / (120 * 119))
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
    assert 0.1 < right.chance < 1 / 6
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
    coarse.add(align(torch.rand(40, 2, 1, 2), cells, generator), 0)
    score = part_score({"coarse": coarse, "fine": tally(maps())}, REGIONS, PARTS)
    assert score is not None
    assert all(part.layers == ("fine", "fine") for part in score.parts[:2])
    assert part_score({"coarse": coarse}, REGIONS, PARTS) is None


def test_the_p_value_is_the_binomials_of_the_larger_chance() -> None:
    rows = findings({"layer": tally(maps())}, REGIONS, PARTS)
    larger = 0
    for row in rows:
        if row.region == "left":
            hits = round(row.pointing * row.images)
            expected = stats.binom.sf(hits - 1, row.images, row.chance)
            assert row.p == pytest.approx(expected, rel=1e-6, abs=1e-12)
            assert row.chance >= 1 / 36 - 1e-9
            larger += row.chance > 1 / 36 + 1e-9
    assert 0 < larger < 12


def test_who_always_points_up_has_no_part_however_often_it_is_there() -> None:
    torch.manual_seed(3)
    images = 300
    up = torch.rand(images) < 0.9
    cells = torch.zeros(images, 1, 6, 6)
    cells[up, 0, 0, 2] = 1
    cells[~up, 0, 5, 2] = 1
    fixed = torch.rand(images, 4, 6, 6) * 0.5
    fixed[:, 0, 0, 2] += 1  # always the same cell
    follows = fixed.clone()
    follows[~up, 0, 0, 2] -= 1
    follows[~up, 0, 5, 2] += 1
    rows, scores = {}, {}
    for name, values in (("fixed", fixed), ("follows", follows)):
        found = Tally()
        found.add(align(values, cells, torch.Generator().manual_seed(0)), 0)
        rows[name] = findings({"layer": found}, ("part",), ("part",))
        scores[name] = part_score({"layer": found}, ("part",), ("part",))
    assert rows["fixed"][0].pointing == pytest.approx(rows["fixed"][0].chance, abs=0.005)
    assert not own_parts(rows["fixed"], ("part",))
    assert scores["fixed"] is not None
    assert abs(scores["fixed"].score) < 0.05
    assert own_parts(rows["follows"], ("part",)) == {("layer", 0): "part"}
    assert scores["follows"] is not None
    assert scores["follows"].score == 1


def test_the_chance_of_swapped_maps_is_the_mean_over_all_pairs() -> None:
    torch.manual_seed(4)
    values, cells = torch.rand(30, 3, 4, 5), (torch.rand(30, 2, 4, 5) < 0.3).float()
    cells[:7, 1] = 0  # absent in some
    found = Tally()
    for first in (0, 13):
        last = 13 if first == 0 else 30
        found.add(
            align(values[first:last], cells[first:last], torch.Generator().manual_seed(0)), first
        )
    at = values.flatten(2).argmax(2)
    for region in (0, 1):
        there = [j for j in range(30) if cells[j, region].any()]
        for group in range(3):
            pairs = [
                cells[j, region].flatten()[at[i, group]] for i in range(30) for j in there if i != j
            ]
            expected = float(torch.stack(pairs).mean())
            assert float(found.habit_of()[group, region]) == pytest.approx(expected)
    assert bool((found.chance_of() >= found.habit_of() - 1e-12).all())


@pytest.mark.parametrize("order", [(7, 14, 3), (3, 14, 7), (14, 7, 3)])
def test_maps_of_several_sizes_are_counted_in_one_frame(order: tuple[int, ...]) -> None:
    found = Tally()
    for turn, size in enumerate(order):
        values, cells = torch.zeros(20, 2, size, size), torch.zeros(20, 1, size, size)
        values[:, 0, 0, 0] = values[:, 1, -1, -1] = 1
        cells[:, 0, 0, 0] = 1
        found.add(align(values, cells, torch.Generator().manual_seed(0)), 20 * turn)
    assert found.places is not None
    assert found.places.shape[2:] == (28, 28)
    assert found.places.sum() == 120
    # A coarse corner's middle is in no finer corner; a finer one's middle is in every coarser one.
    hits = {(a, b): a >= b for a in order for b in order}
    expected = (400 * sum(hits.values()) - 60) / (60 * 59)
    assert found.habit_of().flatten().tolist() == pytest.approx([expected, 0])


@pytest.mark.parametrize("size", [(28, 28), (27, 5), (7, 13), (1, 2)])
def test_one_frame_keeps_who_hits_what(size: tuple[int, int]) -> None:
    torch.manual_seed(5)
    values, cells = torch.rand(40, 3, *size), (torch.rand(40, 2, *size) < 0.4).float()
    found = Tally()
    found.add(align(values, cells, torch.Generator().manual_seed(0)), 0)
    before = found.habit_of()
    other = align(torch.rand(0, 3, 4, 4), torch.rand(0, 2, 4, 4), torch.Generator().manual_seed(0))
    found.add(other, 40)  # no image, but another size
    assert found.places is not None
    assert found.places.shape[2:] == (28, 28)
    torch.testing.assert_close(found.habit_of(), before, equal_nan=True)


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
