"""A kernel that tells the turn of each of its programs."""

from typing import Any

import triton
import triton.language as tl

from sgekit.ops.triton_kernels.turns import turn


@triton.jit
def order(
    state: Any, found: Any, samples: Any, blocks: Any, chunks: Any, span: Any, many: Any,
    sets: Any, lag: Any, steps: tl.constexpr, last: tl.constexpr,
) -> None:  # fmt: skip
    step, sample, block, chunk, some = turn(
        state, samples, blocks, chunks, span, many, sets, lag, steps, last
    )
    to = found + tl.program_id(0) * 4
    tl.store(to, tl.where(some, step, -1))
    tl.store(to + 1, sample)
    tl.store(to + 2, block)
    tl.store(to + 3, chunk)
