"""The order in which programs of one launch take the steps of maps too large for each of them."""

import itertools

import pytest
import torch

from sgekit.ops import library, triton
from sgekit.ops.triton_kernels import configuration
from sgekit.ops.triton_kernels.configuration import Tile, Turns

pytestmark = pytest.mark.skipif(
    triton.can_run(library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None))
    is not None,
    reason="Triton, or its interpreter, is not there",
)


def order(
    turns: Turns, samples: int, blocks: int, chunks: int, steps: int, last: bool
) -> list[tuple[int, int, int, int]]:
    """Step, sample, block and chunk of the programs in the order in which they begin; -1 is a
    program without work."""
    from tests.ops import triton_order

    programs = turns.programs(samples, blocks, chunks, steps)
    found = torch.zeros(programs, 4, dtype=torch.int32)
    state = torch.zeros(1, dtype=torch.int32)
    triton_order.order[(programs,)](
        state, found, samples, blocks, chunks, *turns, configuration.LAG, steps=steps, last=last
    )
    assert int(state) == programs
    return [tuple(row) for row in found.tolist()]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize(
    ("turns", "samples", "blocks", "chunks"),
    [(Turns(2, 3), 3, 4, 2), (Turns(1, 1), 1, 3, 4), (Turns(3, 5), 2, 3, 1)],
)
def test_each_step_once_and_none_before_what_it_waits_for(
    turns: Turns, samples: int, blocks: int, chunks: int, steps: int, last: bool
) -> None:
    taken = [t for t in order(turns, samples, blocks, chunks, steps, last) if t[0] >= 0]
    every = itertools.product(range(steps), range(samples), range(blocks), range(chunks))
    assert sorted(taken) == sorted(every)
    # A program may wait for those alone that began before it: else all could wait for ever.
    begun = {t: at for at, t in enumerate(taken)}
    for (step, sample, block, _), at in begun.items():
        if step:
            waits_for = (begun[step - 1, sample, block, chunk] for chunk in range(chunks))
            assert max(waits_for) < at


def test_a_set_and_what_lies_between_its_steps() -> None:
    """All of a set's chunks, in the order of memory; then its next step, LAG sets later."""
    turns, chunks = Turns(2, 1), 3
    taken = order(turns, 1, 8, chunks, 2, True)
    first = [(block, chunk) for step, _, block, chunk in taken if step == 0]
    assert first[:6] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert first[6:8] == [(2, 0), (3, 0)]
    at = taken.index((1, 0, 0, 0))
    assert at == configuration.LAG * 2 * turns.span * chunks + 1


@pytest.mark.parametrize(
    ("channels", "n", "last", "itemsize"),
    [(256, 67200, True, 2), (256, 67200, False, 2), (256, 3136, True, 4), (1024, 4200, True, 2)],
)
def test_sets_of_real_maps(channels: int, n: int, last: bool, itemsize: int) -> None:
    """They stay in a cache of 40 MB, and memory is read in no less than it hands out at once."""
    tile: Tile = configuration.tile(64, channels // 64, n, last, 1)
    assert not tile.near(n, itemsize)
    turns = tile.turns(64, n, last, itemsize)
    blocks = tile.blocks(64)
    assert blocks % turns.span == 0
    numbers = turns.span * turns.many * tile.groups * tile.depth * n
    held = (2 * configuration.LAG + 1) * numbers * itemsize
    assert held <= 40 * 2**20
    if last:
        assert turns.span * tile.groups * tile.depth * itemsize >= configuration.SPAN
