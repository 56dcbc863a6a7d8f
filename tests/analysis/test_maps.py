import pytest
import torch
from torch import Tensor, nn

from sgekit.analysis import capture
from sgekit.analysis.maps import group_lengths, lengths_and_gate
from sgekit.errors import InputError
from sgekit.modules import ATTENTION, NoAttention, SpatialGroupEnhance


def layer(**options: object) -> SpatialGroupEnhance:
    torch.manual_seed(0)
    made = SpatialGroupEnhance(12, 3, **options)  # type: ignore[arg-type]
    nn.init.normal_(made.weight)
    nn.init.normal_(made.bias)
    return made


@pytest.mark.parametrize("shift", [0.0, 3.0, 1000.0])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_the_gate_is_the_layers_own(shift: float, memory: torch.memory_format) -> None:
    torch.manual_seed(1)
    x = (torch.randn(2, 12, 7, 5) + shift).to(memory_format=memory)
    torch.testing.assert_close(
        lengths_and_gate(x, layer())[1], layer().gate(x), atol=2e-5, rtol=1e-4
    )


def test_constant_and_dead_groups_have_constant_gates() -> None:
    x = torch.randn(2, 12, 4, 4)
    x[:, :4] = 7.3
    x[:, 4:8] = 0
    gate = lengths_and_gate(x, layer())[1]
    for group in range(2):
        assert torch.equal(gate[:, group], layer().gate(x)[:, group])
        assert gate[:, group].min() == gate[:, group].max()


def test_options_of_the_layer_hold() -> None:
    x = torch.randn(2, 12, 4, 4)
    for options in ({"unbiased": False}, {"normalize": False}, {"eps": 0.5}):
        own = layer(**options)
        torch.testing.assert_close(lengths_and_gate(x, own)[1], own.gate(x), atol=1e-5, rtol=1e-5)


def test_half_precision_is_measured_in_float32() -> None:
    x = torch.randn(1, 12, 6, 6).half()
    assert lengths_and_gate(x, layer())[1].dtype == torch.float32
    assert group_lengths(x, 3).dtype == torch.float32


def test_lengths_are_of_a_groups_vector() -> None:
    x = torch.zeros(1, 4, 1, 2)
    x[0, :, 0, 0] = torch.tensor([3.0, 4, 6, 8])
    assert group_lengths(x, 2)[0, :, 0, 0].tolist() == [5, 10]


class Net(nn.Module):
    def __init__(self, name: str, channels: int = 16) -> None:
        super().__init__()
        options = {"sge": {"groups": 4}}.get(name, {})
        self.attention = ATTENTION[name](channels, **options)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.attention(x))


@pytest.mark.parametrize("name", sorted(ATTENTION))
def test_maps_of_every_attention(name: str) -> None:
    torch.manual_seed(0)
    net = Net(name).eval()
    x = torch.randn(2, 16, 8, 8)
    with torch.no_grad(), capture(net, attention="all", groups=4) as records:
        y = net(x)
    (record,) = records.values()
    count = 1 if name == "sa" else 4
    assert record.kind == {"sge": "gate", "none": "similarity"}.get(name, "ratio")
    assert record.gate.shape == (2, count, 8, 8)
    torch.testing.assert_close(record.after, group_lengths(y, count), atol=1e-4, rtol=1e-4)
    if name != "none":
        torch.testing.assert_close(record.before * record.gate, record.after, atol=1e-4, rtol=1e-4)


def test_the_similarity_of_a_marked_place_is_that_of_a_layer_with_weight_1() -> None:
    x = torch.randn(2, 16, 8, 8)
    net = nn.Sequential(NoAttention(16))
    with capture(net, attention="all", groups=4) as records:
        net(x)
    plain = SpatialGroupEnhance(16, 4, weight_init=1.0, bias_init=0.0)
    torch.testing.assert_close(records["0"].gate, plain.gate(x), atol=1e-5, rtol=1e-5)
    assert records["0"].after is records["0"].before


def test_groups_that_do_not_divide_become_one() -> None:
    net = Net("se")
    with capture(net, attention="all", groups=5) as records:
        net(torch.randn(2, 16, 4, 4))
    assert records["attention"].gate.shape[1] == 1


def test_a_layer_that_is_none_is_told() -> None:
    with (
        pytest.raises(InputError, match="no attention layer of this model; its attention layers"),
        capture(Net("se"), ["head"], attention="all"),
    ):
        pass
