"""What the public function refuses, and how it chooses an implementation."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sgekit.errors import InputError
from sgekit.ops import available, eager, library, spatial_group_enhance, spatial_group_gate
from sgekit.ops.api import automatic, first_that_runs


def arguments(**changes: Any) -> dict[str, Any]:
    return {"x": torch.randn(2, 8, 3, 5), "weight": torch.ones(4), "bias": torch.ones(4)} | changes


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "indivisible": (
        {"weight": torch.ones(3), "bias": torch.ones(3)}, InputError, "3 groups .* 8 channels"
    ),
    "no groups": ({"weight": torch.ones(0), "bias": torch.ones(0)}, InputError, "0 groups"),
    "no spatial dimension": ({"x": torch.randn(2, 8)}, InputError, r"\(2, 8\)"),
    "parameters differ": ({"bias": torch.ones(2)}, InputError, r"\(4,\) and \(2,\)"),
    "parameters not flat": (
        {"weight": torch.ones(1, 4), "bias": torch.ones(1, 4)}, InputError, r"\(1, 4\)"
    ),
    "residual shape": ({"residual": torch.randn(2, 8, 3, 1)}, InputError, r"\(2, 8, 3, 5\)"),
    "residual device": (
        {"residual": torch.empty(2, 8, 3, 5, device="meta")}, InputError, "meta"
    ),
    "channel_dim": ({"channel_dim": 2}, InputError, "1 or -1 .* not 2"),
    "eps of zero": ({"eps": 0.0}, InputError, "eps must be a number above 0, not 0.0"),
    "eps of nothing": ({"eps": 1e-40}, InputError, "eps 1e-40 is 0 in float32, from 1.2e-38 on"),
    "no eps": ({"eps": float("nan")}, InputError, "not nan"),
    "activation": ({"activation": "gelu"}, InputError, "'gelu'"),
    "impl": ({"impl": "cuda"}, InputError, '"auto", .*"reference".* not \'cuda\''),
    "integers": ({"x": torch.ones(2, 8, 3, 5, dtype=torch.int64)}, TypeError, "int64"),
    "complex": ({"x": torch.ones(2, 8, 3, 5, dtype=torch.cfloat)}, TypeError, "complex64"),
    "no tensor": ({"residual": [1.0]}, TypeError, "residual must be a tensor, not list"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "message"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        spatial_group_enhance(**arguments(**changes))


def test_gate_refuses_the_same() -> None:
    with pytest.raises(InputError, match="3 groups"):
        spatial_group_gate(torch.randn(1, 8, 2, 2), torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="eps must be"):
        spatial_group_gate(torch.randn(1, 8, 2, 2), torch.ones(4), torch.ones(4), eps=-1e-5)


@pytest.mark.parametrize("impl", ["cpu", "triton"])
def test_a_named_implementation_never_falls_back(impl: str) -> None:
    reasons = dict(available())
    if reasons[impl] is None:
        pytest.skip(f"{impl} runs here")
    with pytest.raises(InputError, match=reasons[impl]):
        spatial_group_enhance(**arguments(impl=impl))


def test_reference_is_always_available() -> None:
    for device in ("cpu", "cuda", "meta"):
        assert dict(available(device, torch.bfloat16))["reference"] is None


@pytest.mark.parametrize("kind", ["cuda", "xpu"])
def test_a_device_that_is_not_there_runs_no_kernels(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.get_device_module(kind), "is_available", lambda: False)
    assert dict(available(kind))["triton"] == f"there is no {kind} device"


def test_the_interpreter_is_not_taken_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "why_not", lambda impl, call: None)
    call = library.Call(torch.device("cpu"), torch.float32, (1, 4, 2), 1, 1, None)
    assert first_that_runs(call, ("triton", "reference")) == "reference"
    assert first_that_runs(call, ("triton",)) is None
    assert automatic() == "cpu"
    on_gpu = call._replace(device=torch.device("cuda"))
    assert first_that_runs(on_gpu, ("triton", "reference")) == "triton"


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for the CPU kernels that can't take a ReLU; returns what was called."""
    calls: list[str] = []

    def forward(*args: Any) -> tuple[Tensor, ...]:
        calls.append("forward")
        return eager.forward(*args)

    def backward(*args: Any) -> tuple[Tensor, ...]:
        calls.append("backward")
        return eager.backward(*args)

    backend = SimpleNamespace(
        can_run=lambda call: "it has no ReLU" if call.activation else None,
        forward=forward,
        backward=backward,
    )
    real = library._fused
    monkeypatch.setattr(library, "_fused", lambda impl: backend if impl == "cpu" else real(impl))
    return calls


def test_auto_takes_the_first_that_can(fused: list[str]) -> None:
    x = torch.randn(2, 8, 3, 5, requires_grad=True)
    spatial_group_enhance(**arguments(x=x)).sum().backward()  # type: ignore[no-untyped-call]
    assert fused == ["forward", "backward"]
    spatial_group_enhance(**arguments(activation="relu"))
    spatial_group_enhance(**arguments(impl="reference"))
    assert fused == ["forward", "backward"]
    with pytest.raises(InputError, match="it has no ReLU"):
        spatial_group_enhance(**arguments(activation="relu", impl="cpu"))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_memory_layout_is_kept(layout: torch.memory_format, activation: str | None) -> None:
    x = torch.randn(2, 8, 3, 5).contiguous(memory_format=layout).requires_grad_()
    y = spatial_group_enhance(**arguments(x=x, activation=activation))
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert y.stride() == dx.stride() == x.stride()


@pytest.mark.parametrize(
    ("of_x", "of_residual", "of_y"),
    [
        (torch.float16, None, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float32, torch.float64, torch.float64),
        (torch.float64, torch.float16, torch.float64),
    ],
)
def test_result_dtype(
    of_x: torch.dtype, of_residual: torch.dtype | None, of_y: torch.dtype
) -> None:
    x = torch.randn(2, 8, 3, 5).to(of_x).requires_grad_()
    inputs = [x]
    if of_residual is not None:
        inputs.append(torch.zeros(2, 8, 3, 5, dtype=of_residual, requires_grad=True))
    residual = inputs[1] if of_residual is not None else None
    y = spatial_group_enhance(**arguments(x=x, residual=residual, activation="relu"))
    assert y.dtype == of_y
    gradients = torch.autograd.grad(y.sum(), inputs)
    assert [g.dtype for g in gradients] == [i.dtype for i in inputs]


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_the_gradient_of_a_nan_passes_the_relu(impl: str) -> None:
    x, one = torch.randn(1, 4, 3, 3), torch.ones(2)
    residual = torch.randn_like(x)
    residual[0, 1, 2, 2] = float("nan")
    residual.requires_grad_()
    y = spatial_group_enhance(x, one, one, residual=residual, activation="relu", impl=impl)
    (found,) = torch.autograd.grad(y.sum(), residual)
    assert torch.equal(found, 1 - (y <= 0).float())
    assert found[0, 1, 2, 2] == 1
