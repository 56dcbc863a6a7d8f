"""What every library's network has to stand once attention is in it."""

import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import sgekit
from sgekit.models.insertion.choose import Where
from sgekit.models.insertion.places import is_norm
from sgekit.modules import SpatialGroupEnhance

Outputs = Sequence[Tensor]


def first_output(model: nn.Module, x: Tensor) -> Outputs:
    """The outputs of networks that take one tensor: a tensor, a dict or tuple, or a class."""
    out: Any = model(x)
    if isinstance(out, Tensor):
        return [out]
    return list(out.values()) if isinstance(out, dict) else list(out)


def mean_square(model: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([out.square().mean() for out in first_output(model, x)]).sum()


@dataclass(frozen=True)
class Case:
    """A network, how it is run, and where attention is expected in it."""

    make: Callable[[], nn.Module]
    input: tuple[int, ...]
    """Shape of a batch of two or more."""
    layers: int
    first: str
    last: str
    where: Where = "auto"
    part: str = ""
    """The submodule that attention is inserted into, and that the names begin from."""
    held: bool = True
    """Whether weights before every layer hold the factor, so that no buffer is needed."""
    outputs: Callable[[nn.Module, Tensor], Outputs] = first_output
    loss: Callable[[nn.Module, Tensor], Tensor] = mean_square

    def insert(self, model: nn.Module) -> list[str]:
        part = model.get_submodule(self.part)
        return sgekit.insert(part, "sge", where=self.where, groups="auto")


def randomize(model: nn.Module) -> None:
    """Give norms and layer scales values as of a trained network, so that every branch counts."""
    with torch.no_grad():
        for module in model.modules():
            if is_norm(module):
                for name in ("weight", "running_var"):
                    if isinstance(tensor := getattr(module, name, None), Tensor):
                        tensor.uniform_(0.5, 1.5)
                for name in ("bias", "running_mean"):
                    if isinstance(tensor := getattr(module, name, None), Tensor):
                        tensor.normal_(0, 0.1)
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.uniform_(0.2, 0.8)


def layers_of(model: nn.Module) -> list[SpatialGroupEnhance]:
    return [module for module in model.modules() if isinstance(module, SpatialGroupEnhance)]


def difference(a: Outputs, b: Outputs) -> float:
    """The largest of max |a - b| / max |b| over the outputs."""
    assert len(a) == len(b)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def run(case: Case, model: nn.Module, x: Tensor) -> Outputs:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            return [out.clone() for out in case.outputs(model, x)]
    finally:
        for module, mode in modes.items():
            module.training = mode


def check(case: Case) -> nn.Module:
    """Insert, preserve, train a step, save and load, copy; returns the trained network."""
    model = case.make()
    randomize(model)
    x = torch.randn(case.input)
    plain = copy.deepcopy(model)
    before = run(case, model, x)
    assert all(torch.isfinite(out).all() and out.std() > 0 for out in before)

    names = case.insert(model)
    assert (len(names), names[0], names[-1]) == (case.layers, case.first, case.last)
    assert len(layers_of(model)) == case.layers
    scales = [name for name in model.state_dict() if name.endswith("attention_scale")]
    assert bool(scales) != case.held, scales
    error = difference(run(case, model, x), before)
    assert error <= 1e-5, f"the function changed by {error:.1e}"

    train(case, model, x)
    after = run(case, model, x)
    assert difference(after, before) > 1e-4
    round_trip(case, model, plain, x, after)
    copies(case, model, x, after)
    return model


def train(case: Case, model: nn.Module, x: Tensor) -> None:
    """One step; every attention layer gets a gradient and moves."""
    model.train()
    case.loss(model, x).backward()  # type: ignore[no-untyped-call]
    for layer in layers_of(model):
        for parameter in (layer.weight, layer.bias):
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.count_nonzero() > 0
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                # By the sign: of one size whatever the loss's scale.
                parameter.sub_(parameter.grad.sign(), alpha=1e-3)
    assert all(layer.weight.count_nonzero() > 0 for layer in layers_of(model))


def round_trip(
    case: Case, model: nn.Module, plain: nn.Module, x: Tensor, expected: Outputs
) -> None:
    """Weights go through a file into a plain network, once attention is inserted there too."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    case.insert(plain)
    plain.load_state_dict(torch.load(file, weights_only=True))
    for out, true in zip(run(case, plain, x), expected, strict=True):
        torch.testing.assert_close(out, true, rtol=0, atol=0)


def copies(case: Case, model: nn.Module, x: Tensor, expected: Outputs) -> None:
    """A deep copy computes the same and shares nothing."""
    copied = copy.deepcopy(model)
    for out, true in zip(run(case, copied, x), expected, strict=True):
        torch.testing.assert_close(out, true, rtol=0, atol=0)
    with torch.no_grad():
        for layer in layers_of(copied):
            layer.weight.fill_(2)
    assert difference(run(case, copied, x), expected) > 1e-4
    for out, true in zip(run(case, model, x), expected, strict=True):
        torch.testing.assert_close(out, true, rtol=0, atol=0)
