"""What a run on shapes notes of a network, and that it leaves the network as it was."""

import copy
import time
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sgekit.errors import InputError
from sgekit.models.insertion.trace import Graph, Step, input_sizes, trace
from tests.models.insertion.nets import CHANNELS, Residual, Shuffle, basic, chain, conv, net, norm


def last(graph: Graph) -> Step:
    return graph.steps[-1]


def leads(graph: Graph, start: str, end: str) -> bool:
    """Whether the output of one module leads to that of another."""
    outputs = graph.outputs()
    return bool(outputs[end].ancestors >> outputs[start].number & 1)


def test_steps_and_their_modules() -> None:
    graph = trace(nn.Sequential(conv(3), nn.BatchNorm2d(CHANNELS), nn.ReLU(inplace=True)))
    outputs = graph.outputs()
    assert [outputs[name].operation for name in ("0", "1", "2")] == [
        "convolution",
        "native_batch_norm",
        "relu",
    ]
    assert outputs["2"] is outputs[""] is last(graph)
    assert outputs["2"].shape == (1, CHANNELS, 224, 224)
    assert outputs["1"].owner == "1"
    assert graph.calls == {"": 1, "0": 1, "1": 1, "2": 1}
    assert graph.spatial == 2


def test_a_module_that_returns_its_input_computes_nothing() -> None:
    graph = trace(nn.Sequential(conv(3), nn.Identity(), nn.Dropout()))
    assert set(graph.outputs()) == {"0", ""}


def test_in_place_operations_and_views_keep_the_way() -> None:
    model = net(Residual(chain(norm())), Shuffle(conv(4, 4)))
    graph = trace(model)
    for start, end in (("stem", "blocks.0"), ("blocks.0", "blocks.1.branch"), ("blocks.1", "head")):
        assert leads(graph, start, end)
    assert not leads(graph, "blocks.0.branch.4", "blocks.0.branch.0")


def test_what_is_written_into_a_part_leads_on() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.last = conv(3), conv(4, 4), conv()

        def forward(self, x: Tensor) -> Tensor:
            out = self.stem(x)
            out[:, :4] = self.branch(out[:, 4:])
            return self.last(out)  # type: ignore[no-any-return]

    assert leads(trace(Writes()), "branch", "last")


def test_lists_and_dicts_of_tensors_are_followed() -> None:
    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.top, self.join = conv(3), conv(), Join()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            stem = self.stem(x)
            return {"out": self.join({"a": [stem, self.top(stem)]})}

    class Join(nn.Module):
        def forward(self, maps: dict[str, list[Tensor]]) -> Tensor:
            return torch.stack(maps["a"]).sum(0)

    graph = trace(Pyramid())
    assert leads(graph, "top", "join")
    assert "" not in graph.outputs()


class Meddler(nn.Module):
    """Sets what a forward pass may set, and counts its calls in a buffer."""

    count: Tensor

    def __init__(self, *, by_numbers: bool) -> None:
        super().__init__()
        self.conv = conv(3)
        self.by_numbers = by_numbers
        self.register_buffer("count", torch.zeros(()))
        self.cache: Tensor | None = None
        self.grids: list[Tensor] = []
        self.sizes: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if self.by_numbers and x.sum() > 1e9:
            raise ValueError
        self.count += 1
        self.cache = x
        self.grids.append(x)
        self.sizes["x"] = x
        self.fresh = x
        self.conv.seen = x
        torch.rand(())
        return self.conv(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("by_numbers", [False, True], ids=["shapes", "numbers"])
def test_the_network_stays_as_it_was(by_numbers: bool) -> None:
    meddler = Meddler(by_numbers=by_numbers)
    model = nn.Sequential(meddler, norm(), nn.Dropout())
    model.train()
    model[1].eval()
    grids, hooked = meddler.grids, []
    handle = meddler.conv.register_forward_hook(lambda *_: hooked.append(1))
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    attributes = [set(vars(module)) for module in model.modules()]

    graph = trace(model)

    assert graph.outputs()["1"].operation == "native_batch_norm"
    assert [module.training for module in model.modules()] == [True, True, True, False, True]
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [set(vars(module)) for module in model.modules()] == attributes
    assert (meddler.cache, meddler.grids, meddler.sizes) == (None, [], {})
    assert meddler.grids is grids
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and not p.is_meta for p in model.parameters())
    handle.remove()
    hooked.clear()
    model(torch.randn(2, 3, 8, 8))
    assert hooked == []
    assert all(len(m._forward_hooks) == 0 for m in model.modules())
    assert all(len(m._forward_pre_hooks) == 0 for m in model.modules())


def test_a_network_that_fails_stays_as_it_was() -> None:
    class Fails(Meddler):
        def forward(self, x: Tensor) -> Tensor:
            super().forward(x)
            raise RuntimeError("no\nmore")

    model = Fails(by_numbers=False)
    with pytest.raises(InputError, match=r"Fails.*\(1, 3, 224, 224\).*\(no\).*example_inputs"):
        trace(model)
    assert model.training
    assert int(model.count) == 0
    assert model.cache is None
    assert all(len(m._forward_hooks) == 0 for m in model.modules())


def test_networks_that_need_numbers_get_them() -> None:
    class Chooses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.few, self.many = conv(3), conv(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.many(x) if float(x.mean()) > 0.5 else self.few(x)  # type: ignore[no-any-return]

    assert set(trace(Chooses()).calls) == {"", "few"}
    assert set(trace(Chooses(), torch.ones(1, 3, 4, 4)).calls) == {"", "many"}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_any_type_and_device_of_weights(dtype: torch.dtype, device: str) -> None:
    model = basic().to(device, dtype)
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    assert graph.outputs()["head"].shape == (1, CHANNELS)
    assert all(p.dtype == dtype and p.device.type == device for p in model.parameters())


class Several(nn.Module):
    """Takes an image and, by keyword, a condition of whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.embed = conv(3), nn.Embedding(4, CHANNELS)

    def forward(self, x: Tensor, *, label: Tensor) -> Tensor:
        return F.relu(self.stem(x) + self.embed(label)[:, :, None, None])


IMAGE, LABEL = torch.zeros(2, 3, 6, 7), torch.tensor([1, 3])


class First(Several):
    """Takes a list of images."""

    def forward(self, x: Any, *, label: Any = None) -> Tensor:
        assert isinstance(x, list)
        return self.stem(torch.stack(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "example"),
    [
        (Several(), {"x": IMAGE, "label": LABEL}),
        (First(), list(IMAGE)),
        (First(), (list(IMAGE),)),
        (conv(3), IMAGE),
        (conv(3), (IMAGE,)),
    ],
    ids=["keywords", "list", "tuple of list", "tensor", "tuple"],
)
def test_examples(model: nn.Module, example: Any) -> None:
    assert last(trace(model, example)).shape == (2, CHANNELS, 6, 7)


def test_without_an_example() -> None:
    with pytest.raises(InputError, match=r"Several.*label.*example_inputs"):
        trace(Several())
    with pytest.raises(InputError, match=r"Linear has no convolution.*example_inputs"):
        trace(nn.Linear(3, 3))
    assert input_sizes(nn.Conv1d(5, 2, 3)) == [(5, 1024)]
    assert input_sizes(nn.Conv3d(5, 2, 3)) == [(5, 96, 96, 96)]
    with torch.device("meta"):
        assert input_sizes(timm.create_model("inception_v3"))[0] == (3, 299, 299)
        assert input_sizes(timm.create_model("resnet18", in_chans=4))[0] == (4, 224, 224)


def test_pixels_rearranged_before_the_first_convolution() -> None:
    model = nn.Sequential(nn.PixelUnshuffle(4), conv(48))
    model.default_cfg = {"input_size": (3, 32, 32)}  # type: ignore[assignment]
    assert trace(model).steps[0].shape == (1, 3, 32, 32)


def test_calls_are_counted() -> None:
    block = Residual(chain(norm()))
    graph = trace(net(block, block, block))
    assert graph.calls["blocks.0"] == graph.calls["blocks.0.branch.4"] == 3
    assert graph.calls["blocks"] == 1


@pytest.mark.slow
def test_large_networks_take_below_a_second() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet152")
    times = []
    for _ in range(3):
        began = time.process_time()
        trace(model)
        times.append(time.process_time() - began)
    assert min(times) < 1
