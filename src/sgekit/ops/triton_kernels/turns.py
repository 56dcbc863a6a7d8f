"""How one launch takes maps too large for a program in steps that find their data in the cache.

The work is cut into sets of maps' parts. A set's second step follows its first, and the third
that, so closely that the cache which all programs share still holds what the first has read.
Programs take turns as they start: whoever waits for another's result waits for one that began
before, which therefore ends.
"""

import triton
import triton.language as tl


@triton.jit
def turn(
    state, samples, blocks, chunks, span, many, lag, STEPS: tl.constexpr, LAST: tl.constexpr
):  # fmt: skip
    """This program's step, sample, block of groups and chunk of positions, and whether it has one.

    `state` counts the programs that began. A set has `many` columns, each of `span` blocks side by
    side; between two steps of a set lie those of `lag` other sets.
    """
    ticket = tl.atomic_add(state, 1, sem="relaxed", scope="gpu")
    column_size = span * chunks
    turns = many * column_size
    step = ticket % STEPS
    tile = ticket // STEPS % turns
    column = (ticket // (STEPS * turns) - lag * step) * many + tile // column_size
    tile = tile % column_size
    beside = blocks // span
    first = column % beside * span
    if LAST:
        block = first + tile % span
        chunk = tile // span
    else:
        block = first + tile // chunks
        chunk = tile % chunks
    return step, column // beside, block, chunk, (column >= 0) & (column < samples * beside)


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
