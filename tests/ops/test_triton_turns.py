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

    programs = turns.programs(chunks, steps)
    found = torch.zeros(programs, 4, dtype=torch.int32)
    state = torch.zeros(1, dtype=torch.int32)
    triton_order.order[(programs,)](
        state, found, samples, blocks, chunks, *turns, steps=steps, last=last
    )
    assert int(state) == programs
    return [tuple(row) for row in found.tolist()]


# Span, many, samples, blocks and chunks.
SIZES = [(2, 3, 3, 4, 2), (1, 1, 1, 3, 4), (3, 5, 2, 3, 1), (1, 1, 1, 1, 5), (1, 1, 7, 1, 2)]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize(("span", "many", "samples", "blocks", "chunks"), SIZES)
def test_each_step_once_and_none_before_what_it_waits_for(
    span: int, many: int, samples: int, blocks: int, chunks: int, steps: int, last: bool
) -> None:
    sets = -(-samples * (blocks // span) // many)
    for lag in range(1, max(sets // (steps - 1), 1) + 1):
        turns = Turns(span, many, sets, lag)
        taken = [t for t in order(turns, samples, blocks, chunks, steps, last) if t[0] >= 0]
        every = itertools.product(range(steps), range(samples), range(blocks), range(chunks))
        assert sorted(taken) == sorted(every)
        # A program may wait for those alone that began before it: else all could for ever.
        begun = {t: at for at, t in enumerate(taken)}
        for (step, sample, block, _), at in begun.items():
            if step:
                before = (begun[step - 1, sample, block, chunk] for chunk in range(chunks))
                assert max(before) < at


@pytest.mark.parametrize("steps", [2, 3])
def test_a_set_and_what_lies_between_its_steps(steps: int) -> None:
    """All of a set's chunks, in the order of memory; its next step so many sets later."""
    span, chunks, blocks, lag = 2, 3, 16, 3
    turns = Turns(span, 1, blocks // span, lag)
    taken = order(turns, 1, blocks, chunks, steps, True)
    first = [(block, chunk) for step, _, block, chunk in taken if step == 0]
    assert first[:6] == [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2)]
    assert first[6:8] == [(2, 0), (3, 0)]
    # As soon as there is a second step the two take turns.
    assert [t[0] for t in taken[lag * span * chunks :][:4]] == [0, 1, 0, 1]
    for step in range(1, steps):
        began = [t for t in taken if t[0] == 0].index((0, 0, 2 * lag * step, 0))
        at = taken.index((step, 0, 0, 0))
        assert taken[at - step] == (0, 0, 2 * lag * step, 0)
        assert began == lag * step * span * chunks


@pytest.mark.parametrize("steps", [2, 3])
@pytest.mark.parametrize("samples", [1, 2, 16])
@pytest.mark.parametrize(
    ("channels", "n", "last", "itemsize"),
    [(256, 67200, True, 2), (256, 67200, False, 2), (256, 3136, True, 4), (1024, 4200, True, 2)],
)
def test_turns_of_real_maps(
    channels: int, n: int, last: bool, itemsize: int, samples: int, steps: int
) -> None:
    """The sets of x that lie between a set's first step and its last stay in a cache of 40 MB;
    few programs have nothing to do; memory is read in no less than it hands out at once."""
    tile: Tile = configuration.tile(64, channels // 64, n, last, 4 - steps)
    assert not tile.near(n, itemsize)
    turns = tile.turns(samples, 64, n, last, itemsize, steps)
    blocks, chunks = tile.blocks(64), tile.chunks(n)
    assert blocks % turns.span == 0
    numbers = turns.span * turns.many * tile.groups * tile.depth * n
    held = ((steps - 1) * turns.lag + 1) * numbers * itemsize
    assert held <= 40 * 2**20
    assert 1 <= turns.lag <= max(turns.sets // (steps - 1), 1)
    if turns.sets >= 8 * (steps - 1):  # from a column's last chunk to its first in the next step
        between = steps * (turns.lag * turns.many - 1) * turns.span * chunks
        assert between >= configuration.APART
    busy = steps * samples * blocks * chunks
    assert busy >= 0.85 * turns.programs(chunks, steps)
    if last:
        assert turns.span * tile.groups * tile.depth * itemsize >= configuration.SPAN
