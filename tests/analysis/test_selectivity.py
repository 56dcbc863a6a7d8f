import pytest
import torch

from sgekit.analysis import most_selective, selectivity
from sgekit.errors import InputError


def test_selectivity_is_the_coefficient_of_variation_averaged_over_images() -> None:
    gates = torch.tensor([[[[0.1, 0.3]], [[0.7, 0.9]]], [[[0.2, 0.2]], [[0.4, 0.4]]]])
    assert selectivity(gates).tolist() == pytest.approx([0.5 / 2, 0.125 / 2])


def test_the_preference_counts_and_not_the_size() -> None:
    base = torch.rand(3, 1, 5, 5) * 0.4 + 0.1
    gates = torch.cat([base * 2, base * 0.01, base.sqrt()], dim=1)
    twice, tiny, flatter = selectivity(gates).tolist()
    assert twice == pytest.approx(tiny, rel=1e-6)
    assert flatter < twice


def test_most_selective_first_and_ties_by_index() -> None:
    flat = torch.full((1, 1, 4), 0.7)
    mild = torch.tensor([[[0.5, 0.6, 0.5, 0.6]]])
    strong = torch.tensor([[[0.1, 0.9, 0.1, 0.9]]])
    gates = torch.cat([flat, mild, strong, mild, flat], dim=1)
    assert most_selective(gates, 4) == [2, 1, 3, 0]
    assert most_selective(gates, 9) == [2, 1, 3, 0, 4]


def test_gates_that_are_zero_everywhere_do_not_choose() -> None:
    assert selectivity(torch.zeros(1, 2, 3, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("shape", [(2, 3), (0, 4, 2, 2), (1, 4, 0, 2)])
def test_nothing_to_rank(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="nothing to rank"):
        selectivity(torch.ones(shape))


def test_no_group_cannot_be_chosen() -> None:
    with pytest.raises(InputError, match="k = 0"):
        most_selective(torch.ones(1, 2, 3), 0)
