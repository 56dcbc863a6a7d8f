"""The tail's operations keep what their schemas and fake kernels promise."""

import pytest
import torch

from sgekit.ops import cpu_library, tail_library

pytestmark = pytest.mark.skipif(
    isinstance(cpu_library.load(), str), reason=f"no kernels: {cpu_library.load()}"
)
PROMISES = ("test_schema", "test_faketensor")


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_opcheck(layout: torch.memory_format) -> None:
    x, residual, dy = (torch.randn(2, 8, 5, 4).contiguous(memory_format=layout) for _ in range(3))
    norm, weight, bias = torch.ones(8), torch.randn(4), torch.randn(4)
    torch.library.opcheck(tail_library.batch_moments, (x, 1, "cpu"), test_utils=PROMISES)
    means, mean, var = tail_library.batch_moments(x, 1, "cpu")
    first = (x, mean, (var + 1e-5).rsqrt(), norm, norm)
    last = (weight, bias, residual, 1e-5, 1, "relu", "cpu")
    for given in (None, means):
        call = (*first, given, *last)
        torch.library.opcheck(tail_library.norm_enhance, call, test_utils=PROMISES)
    y, *of_groups = tail_library.norm_enhance(*first, None, *last)
    back = (dy, x, y, *first[1:], *of_groups, weight, bias, 1e-5, 1, True, "cpu")
    torch.library.opcheck(tail_library.norm_enhance_backward, back, test_utils=PROMISES)
    over = (x.clone(memory_format=torch.preserve_format), *first[1:], *last)
    torch.library.opcheck(tail_library.norm_enhance_, over, test_utils=PROMISES)
