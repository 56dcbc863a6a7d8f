import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from torch import Tensor

from sgekit.analysis.alignment import Alignment, align, coverage
from sgekit.errors import InputError


def measure(maps: Tensor, cover: Tensor, seed: int = 0) -> Alignment:
    return align(maps, cover, torch.Generator().manual_seed(seed))


def test_a_map_on_its_region_and_one_beside_it() -> None:
    cover = torch.zeros(1, 1, 4, 4)
    cover[0, 0, :2, :2] = 1
    maps = torch.full((1, 2, 4, 4), 0.25)
    maps[0, 0, :2, :2] = torch.tensor([[0.9, 0.8], [0.7, 0.6]])
    maps[0, 1, 2:, 2:] = 0.9
    found = measure(maps, cover)
    assert found.counted.tolist() == [[True]]
    assert found.pointing.flatten().tolist() == [1, 0]
    assert found.chance.item() == found.share.item() == 0.25
    assert found.auroc[0, 0, 0] == 1
    assert found.auroc[0, 1, 0] == pytest.approx(0.5 * 8 / 12)  # ties with eight of twelve
    assert found.iou[0, 0, 0] == 1
    torch.testing.assert_close(found.energy[0, 0, 0], torch.tensor(3.0 / 6.0))
    torch.testing.assert_close(found.contrast[0, 0, 0], torch.tensor(0.75 / 0.25))


def test_auroc_is_that_of_mann_and_whitney_with_ties() -> None:
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, (3, 5, 6, 7)).astype(np.float32)
    mask = rng.random((3, 6, 7)) < 0.3
    found = measure(torch.from_numpy(maps), torch.from_numpy(mask[:, None]).float())
    for image in range(3):
        for group in range(5):
            values = maps[image, group]
            inside, outside = values[mask[image]], values[~mask[image]]
            u = mannwhitneyu(inside, outside).statistic
            expected = u / (len(inside) * len(outside))
            assert found.auroc[image, group, 0].item() == pytest.approx(expected, abs=1e-6)


def test_iou_is_the_best_over_thresholds() -> None:
    rng = np.random.default_rng(1)
    maps = rng.random((2, 3, 5, 5)).astype(np.float32)
    mask = rng.random((2, 5, 5)) < 0.4
    found = measure(torch.from_numpy(maps), torch.from_numpy(mask[:, None]).float())
    for image in range(2):
        for group in range(3):
            values = maps[image, group]
            best = max(
                ((values >= level) & mask[image]).sum() / ((values >= level) | mask[image]).sum()
                for level in values.flatten()
            )
            assert found.iou[image, group, 0].item() == pytest.approx(best, abs=1e-6)


def test_a_constant_map_reaches_what_chance_does_wherever_the_region_is() -> None:
    cover = torch.zeros(2, 1, 4, 4)
    cover[0, 0, 0, 0] = 1
    cover[1, 0, 3, 3] = 1
    found = measure(torch.full((2, 1, 4, 4), 0.731), cover)
    torch.testing.assert_close(found.pointing.flatten(), found.chance.flatten())
    torch.testing.assert_close(found.auroc.flatten(), torch.full((2,), 0.5))
    torch.testing.assert_close(found.energy.flatten(), found.share.flatten())
    torch.testing.assert_close(found.contrast.flatten(), torch.ones(2))


def test_noise_reaches_its_null() -> None:
    torch.manual_seed(0)
    cover = torch.zeros(400, 1, 6, 6)
    cover[:, 0, 1:4, 2:4] = 1
    found = measure(torch.rand(400, 4, 6, 6), cover)
    assert found.pointing.mean().item() == pytest.approx(found.chance.mean().item(), abs=0.04)
    assert found.auroc.mean().item() == pytest.approx(0.5, abs=0.02)
    assert found.iou.mean().item() == pytest.approx(found.iou_shuffled.mean().item(), abs=0.02)


def test_absent_and_full_regions_are_not_counted() -> None:
    cover = torch.zeros(1, 2, 3, 3)
    cover[:, 1] = 1
    assert measure(torch.rand(1, 2, 3, 3), cover).counted.tolist() == [[False, False]]


def test_coverage_is_the_share_of_each_cell() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4, :2] = 1
    cells = coverage(mask, (2, 2))
    assert cells.tolist() == [[[[0.5, 0], [0, 0]]]]
    assert measure(torch.tensor([[[[1.0, 0], [0, 0]]]]), cells).pointing.item() == 1


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="cells and the regions"):
        measure(torch.rand(1, 2, 3, 3), torch.rand(1, 1, 4, 4))
    with pytest.raises(InputError, match="are needed, not"):
        measure(torch.rand(1, 2, 9), torch.rand(1, 1, 9))
