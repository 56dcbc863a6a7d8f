"""What is tried before a GPU uses the kernels; in the interpreter, the CPU stands for the GPU."""

import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from sgekit.ops import library, spatial_group_enhance, triton, triton_tail
from sgekit.ops.triton_kernels import configuration

pytestmark = pytest.mark.skipif(
    triton.can_run(library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None))
    is not None,
    reason="Triton, or its interpreter, is not there",
)


@pytest.mark.parametrize("large", [False, True])
def test_the_trial_finds_faults(monkeypatch: pytest.MonkeyPatch, large: bool) -> None:
    device = torch.device("cpu")
    monkeypatch.setattr(configuration, "SET", 2**15)  # the interpreter runs idle programs slowly
    real = triton.backward

    def wrong(*args: Any) -> Any:
        dx, *rest = real(*args)
        return dx * 1.01, *rest

    def broken(*args: Any) -> Any:
        raise RuntimeError("PassManager::run failed\nand much more")

    monkeypatch.setattr(triton, "backward", wrong)
    assert triton.trial(device, large) == "wrong numbers in dx for float32"
    monkeypatch.setattr(triton, "backward", broken)
    assert triton.trial(device, large) == "RuntimeError: PassManager::run failed"
    monkeypatch.setattr(triton, "backward", real)
    of_tail = triton_tail.backward
    monkeypatch.setattr(
        triton_tail, "backward", lambda *args: tuple(t * 1.01 for t in of_tail(*args))
    )
    assert triton.trial(device, large) == "wrong numbers in dx behind a norm for float32"


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


CALLERS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "another device": lambda: torch.device("meta"),
    "tensors without memory": FakeTensorMode,
    "saved tensors elsewhere": lambda: torch.autograd.graph.saved_tensors_hooks(
        lambda t: t.new_zeros(()), lambda t: pytest.fail("this is not the caller's to unpack")
    ),
}


@pytest.mark.parametrize("of", CALLERS)
def test_the_trial_does_not_mind_who_calls(of: str) -> None:
    with CALLERS[of]():
        assert triton.trial(torch.device("cpu"), False) is None


def test_the_trial_of_large_maps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(configuration, "SET", 2**15)
    assert triton.trial(torch.device("cpu"), True) is None


def test_the_first_call_may_be_in_a_checkpoint_or_under_func(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The CPU stands for a GPU."""
    verdicts = []

    def first_call(x: torch.Tensor) -> torch.Tensor:
        verdicts.append(triton.trial(torch.device("cpu"), False))
        return spatial_group_enhance(x, torch.ones(4), torch.ones(4), impl="reference")

    x = torch.randn(2, 8, 3, 3, requires_grad=True)
    y = checkpoint(first_call, x, use_reentrant=False)
    torch.autograd.grad(y.sum(), x)
    torch.func.vmap(first_call)(x.detach()[None])
    torch.func.grad(lambda x: first_call(x).sum())(x.detach())
    assert set(verdicts) == {None}


def test_the_trial_waits_for_the_end_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried while a CUDA graph is captured would be part of it, or end it."""
    gpu = types.SimpleNamespace(is_available=lambda: True, current_device=lambda: 0)
    capturing = True
    tried: list[tuple[torch.device, bool]] = []
    monkeypatch.setattr(torch, "get_device_module", lambda kind: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    monkeypatch.setattr(triton, "trial", lambda device, large: tried.append((device, large)))
    monkeypatch.setattr(triton, "_found", {})
    call = library.Call(torch.device("cuda"), torch.float32, (1, 4, 2), 1, 1, None)
    assert "run once before the capture" in str(triton.can_run(call))
    assert tried == []
    capturing = False
    assert triton.can_run(call) is None
    assert tried == [(torch.device("cuda", 0), False)]
    capturing = True
    assert triton.can_run(call) is None
    assert len(tried) == 1
    large = call._replace(shape=(1, 64, 60, 60), groups=16)
    assert "run once before the capture" in str(triton.can_run(large))
    capturing = False
    assert triton.can_run(large) is None
    assert tried[1:] == [(torch.device("cuda", 0), True)]
