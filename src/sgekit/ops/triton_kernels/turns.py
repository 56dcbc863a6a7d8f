"""How one launch takes maps too large for a program in steps that find their data in the cache.

The work is cut into sets of maps' parts. A set's second step follows its first, and the third
that, so closely that the cache which all programs share still holds what the first has read, and
so far apart that hardly a program waits for what is still being done.
Programs take turns as they start: whoever waits for another's result waits for one that began
before, which therefore ends.
"""

import triton
import triton.language as tl


@triton.jit
def turn(
    state, samples, blocks, chunks, span, many, sets, lag, STEPS: tl.constexpr,
    LAST: tl.constexpr,
):  # fmt: skip
    """This program's step, sample, block of groups and chunk of positions, and whether it has one.

    `state` counts the programs that began. A set has `many` columns, each of `span` blocks side by
    side. Time has slots: in slot i the first step takes set i, the second set i - lag, the third
    i - 2 * lag, tile by tile in turn; as many steps as have a set. There are at least `lag` sets
    for each step but the first, or there is only one.
    """
    ticket = tl.atomic_add(state, 1, sem="relaxed", scope="gpu")
    column_size = span * chunks
    tiles = many * column_size
    one_set = sets == 1
    # Tickets at which the number of steps at a time changes: 1, 2, (3, 2,) 1.
    second = lag * tiles
    if STEPS == 2:
        last = second + 2 * (sets - lag) * tiles
        early, late = ticket < second, ticket >= last
        active = tl.where(early | late, 1, 2)
        begin = tl.where(early, 0, tl.where(late, last, second))
        slot = tl.where(early, 0, tl.where(late, sets, lag))
        lowest = tl.where(late, 1, 0)
    else:
        third = second + tl.where(one_set, 1, 2) * lag * tiles
        first_ends = third + tl.where(one_set, 0, 3 * (sets - 2 * lag) * tiles)
        last = first_ends + tl.where(one_set, 0, 2 * lag * tiles)
        phase = (ticket >= second).to(tl.int32) + (ticket >= third).to(tl.int32)
        phase += (ticket >= first_ends).to(tl.int32) + (ticket >= last).to(tl.int32)
        one = (phase == 0) | (phase == 4) | one_set
        active = tl.where(one, 1, tl.where(phase == 2, 3, 2))
        begin = tl.where(phase == 0, 0, tl.where(phase == 1, second, third))
        begin = tl.where(phase == 3, first_ends, tl.where(phase == 4, last, begin))
        slot = tl.where(phase == 0, 0, tl.where(phase == 1, lag, 2 * lag))
        slot = tl.where(phase == 3, sets, tl.where(phase == 4, sets + lag, slot))
        lowest = tl.where(phase == 3, 1, tl.where(phase == 4, 2, 0))
        lowest = tl.where(one_set & (phase == 1), 1, lowest)
    ticket -= begin
    slot += ticket // (active * tiles)
    ticket = ticket % (active * tiles)
    step = lowest + ticket % active
    tile = ticket // active
    column = (slot - lag * step) * many + tile // column_size
    tile = tile % column_size
    beside = blocks // span
    first = column % beside * span
    if LAST:
        block = first + tile % span
        chunk = tile // span
    else:
        block = first + tile // chunks
        chunk = tile % chunks
    return step, column // beside, block, chunk, column < samples * beside


@triton.jit
def arrive(counter, chunks):
    """Whether this program is the last of so many; it then sees what all of them have stored."""
    tl.debug_barrier()
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == chunks - 1


@triton.jit
def open_up(counter):
    """Let those go on that wait."""
    tl.debug_barrier()
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, chunks):
    """Until the last of so many has arrived and opened up."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") <= chunks:
        pass
