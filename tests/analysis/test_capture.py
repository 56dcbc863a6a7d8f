from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sgekit.analysis import capture
from sgekit.errors import InputError
from sgekit.modules import SpatialGroupEnhance


class Net(nn.Module):
    """Two SGE layers on 6 x 5 maps and one on a single position."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.first = SpatialGroupEnhance(8, groups=4)
        self.second = SpatialGroupEnhance(8, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = SpatialGroupEnhance(8, groups=2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(self.conv(x)))
        return torch.as_tensor(self.head(self.last(self.pool(x)).flatten(1)))


@pytest.fixture
def net() -> Iterator[Net]:
    torch.manual_seed(0)
    net = Net()
    for layer in (net.first, net.second, net.last):
        nn.init.normal_(layer.weight)
    yield net
    assert not any(module._forward_hooks for module in net.modules())


def test_records_lengths_and_gate_of_each_layer(net: Net) -> None:
    x = torch.randn(2, 3, 6, 5)
    with capture(net) as records:
        net(x)
    assert list(records) == ["first", "second"]
    inputs = net.conv(x)
    outputs = net.first(inputs)
    record = records["first"]
    torch.testing.assert_close(record.before, inputs.view(2, 4, 2, 6, 5).norm(dim=2))
    torch.testing.assert_close(record.gate, net.first.gate(inputs))
    torch.testing.assert_close(record.after, outputs.view(2, 4, 2, 6, 5).norm(dim=2))
    torch.testing.assert_close(records["second"].before, outputs.view(2, 2, 4, 6, 5).norm(dim=2))
    assert not record.gate.requires_grad


def test_the_network_does_not_notice(net: Net) -> None:
    x = torch.randn(2, 3, 6, 5)

    def step() -> list[Tensor]:
        net.zero_grad()
        output = net(x)
        output.square().sum().backward()
        return [output.detach(), *(p.grad.clone() for p in net.parameters() if p.grad is not None)]

    plain = step()
    state = torch.get_rng_state()
    with capture(net):
        assert net.training
        watched = step()
    assert torch.equal(torch.get_rng_state(), state)
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)


def test_the_latest_pass_counts_also_without_gradients(net: Net) -> None:
    with capture(net) as records:
        net(torch.randn(2, 3, 6, 5))
        net.eval()
        with torch.no_grad():
            net(torch.randn(1, 3, 4, 4))
    assert records["first"].gate.shape == (1, 4, 4, 4)
    net.eval()(torch.randn(3, 3, 4, 4))
    assert records["first"].gate.shape == (1, 4, 4, 4)


def test_only_the_layers_asked_for(net: Net) -> None:
    with capture(net, ["second"]) as records:
        net(torch.randn(1, 3, 4, 4))
    assert list(records) == ["second"]


@pytest.mark.parametrize("name", ["conv", "third", ""])
def test_an_unknown_layer_lists_those_there_are(net: Net, name: str) -> None:
    with (
        pytest.raises(InputError, match="its SGE layers: first, second, last"),
        capture(net, [name]),
    ):
        pass


def test_hooks_are_gone_after_an_error(net: Net) -> None:
    with pytest.raises(RuntimeError), capture(net):
        net(torch.randn(1, 4, 4, 4))


def test_channels_last_tokens() -> None:
    layer = SpatialGroupEnhance(8, groups=4, channel_dim=-1)
    nn.init.normal_(layer.weight)
    x = torch.randn(2, 7, 8)
    with capture(layer) as records:
        y = layer(x)
    record = records[""]
    torch.testing.assert_close(record.before, x.view(2, 7, 4, 2).norm(dim=3).transpose(1, 2))
    torch.testing.assert_close(record.after, y.view(2, 7, 4, 2).norm(dim=3).transpose(1, 2))


def test_half_precision_is_recorded_in_float32() -> None:
    layer = SpatialGroupEnhance(8, groups=2)
    # The squares of these overflow in fp16; the lengths do not.
    x = torch.full((1, 8, 2, 3), 1000.0, dtype=torch.float16)
    with capture(layer) as records:
        layer(x)
    assert records[""].gate.dtype == torch.float32
    torch.testing.assert_close(records[""].before, torch.full((1, 2, 2, 3), 2000.0))


def test_a_model_without_sge_has_nothing_to_record() -> None:
    with capture(nn.Linear(2, 2)) as records:
        pass
    assert records == {}


def test_keywords_and_empty_batches_do_not_break_the_network(net: Net) -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = net.first

        def forward(self, x: Tensor) -> Tensor:
            return torch.as_tensor(self.layer(x=x))

    with capture(Named()) as records:
        Named()(torch.zeros(0, 8, 4, 4))
        assert not records
        named = Named()
    with capture(named) as records:
        named(torch.randn(1, 8, 4, 4))
        assert list(records) == ["layer"]
