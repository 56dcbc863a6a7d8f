import sys

import pytest
import torch

from sgekit.errors import InputError
from sgekit.explanation.gradcam import grad_cam, last_block
from tests.explanation.small import network


def test_the_library_draws_the_likeliest_class() -> None:
    torch.manual_seed(0)
    model, inputs = network(), list(torch.randn(2, 3, 32, 32))
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    maps = grad_cam(model, inputs, "layer2.0", "cpu")
    assert [values.shape for values in maps] == [(32, 32), (32, 32)]
    for image, values in zip(inputs, maps, strict=True):
        assert values.min() >= 0
        assert values.max() <= 1
        expected = by_hand(network(), image, "layer2.0")
        peak = torch.tensor(values)[2::4, 2::4].flatten().argsort(descending=True)[:4]
        assert int(expected.flatten().argmax()) in peak.tolist()
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def by_hand(model: torch.nn.Module, image: torch.Tensor, layer: str) -> torch.Tensor:
    """Equations 1 and 2 of the paper, (8, 8)."""
    kept: list[torch.Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda _module, _inputs, output: kept.append(output)
    )
    logits = model(image[None])
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.max(), kept[0])
    cam = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu()[0]
    return torch.nn.functional.interpolate(cam[None, None], size=(8, 8), mode="bilinear")[0, 0]


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(InputError, match=r"pip install 'sgekit\[explain\]'"):
        grad_cam(network(), [torch.randn(3, 32, 32)], "layer2.0", "cpu")


def test_the_last_block_is_that_of_the_last_layer() -> None:
    assert last_block(["layer1.0.se", "layer4.2.se"]) == "layer4.2"
