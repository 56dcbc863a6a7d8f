"""Every attention layer against its paper's equations in float64, and against timm's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from timm.layers.eca import EcaModule
from timm.layers.gather_excite import GatherExcite
from timm.layers.global_context import GlobalContext
from timm.layers.selective_kernel import SelectiveKernel
from timm.layers.squeeze_excite import SEModule

from sgekit.errors import InputError
from sgekit.modules import ATTENTION
from tests.modules.equations import EQUATIONS
from tests.modules.layers import FORMATS, maps, relative_rms, state_of, trained

CHANNELS = 24
# Several channels a group, which "auto" has for more channels than these.
OPTIONS: dict[str, dict[str, Any]] = {
    "sk": {"groups": 4},
    "sa": {"groups": 3},
    "ema": {"groups": 6},
}


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


def test_every_mechanism_has_its_equations() -> None:
    assert {*EQUATIONS, "none", "sge"} == set(ATTENTION)


# 9x11: odd, larger than GE's extent, smaller than the reach of BAM's dilated convolutions.
@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_output_and_gradients_are_the_papers(name: str, training: bool, memory: str) -> None:
    layer = trained(name, CHANNELS, **OPTIONS.get(name, {})).train(training)
    x = maps(3, CHANNELS, 9, 11).contiguous(memory_format=FORMATS[memory]).requires_grad_()
    exact = x.detach().clone().requires_grad_()
    state = state_of(layer)
    y, expected = layer(x), EQUATIONS[name](exact, state, training)
    close(y, expected)
    weight = maps(*y.shape, seed=2)
    (y * weight).sum().backward()
    (expected * weight).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert exact.grad is not None
    close(x.grad, exact.grad)
    for key, parameter in layer.named_parameters():
        grad = state[key].grad
        close(parameter.grad, torch.zeros_like(parameter) if grad is None else grad)


@pytest.mark.parametrize("memory", FORMATS)
@pytest.mark.parametrize("name", EQUATIONS)
def test_in_float32_and_under_autocast(name: str, memory: str) -> None:
    layer = trained(name, CHANNELS, torch.float32, **OPTIONS.get(name, {})).eval()
    x = maps(2, CHANNELS, 9, 11, dtype=torch.bfloat16).contiguous(memory_format=FORMATS[memory])
    expected = EQUATIONS[name](x.double(), state_of(layer), False)
    assert relative_rms(layer(x.float()), expected) < 1e-6
    # A unit of bf16 is 2^-8, of fp16 2^-11; a few roundings follow one another.
    for dtype, allowed in ((torch.bfloat16, 2e-2), (torch.float16, 3e-3)):
        with torch.autocast("cpu", dtype):
            y = layer(x.to(dtype))
        assert y.dtype == dtype
        assert relative_rms(y, expected) < allowed


@pytest.mark.parametrize("name", ["se", "cbam", "bam", "gc", "ge", "eca", "srm", "simam", "coord"])
def test_channels_last_stays(name: str) -> None:
    y = trained(name, CHANNELS)(maps(2, CHANNELS, 9, 11).to(memory_format=torch.channels_last))
    assert y.is_contiguous(memory_format=torch.channels_last)


NO_TIMM: dict[str, Any] = {"device": None, "dtype": torch.float64}
TIMM: dict[str, tuple[dict[str, Any], Callable[[], Any]]] = {
    "se": ({}, lambda: SEModule(CHANNELS, **NO_TIMM)),
    "cbam": ({}, lambda: CbamModule(CHANNELS, **NO_TIMM)),
    "eca": ({}, lambda: EcaModule(CHANNELS, **NO_TIMM)),
    "gc": (
        {"reduction": 4},
        lambda: GlobalContext(CHANNELS, rd_ratio=1 / 4, fuse_add=True, fuse_scale=False, **NO_TIMM),
    ),
    "ge": (
        {"learned": False, "extent": 4},
        lambda: GatherExcite(CHANNELS, extent=4, use_mlp=False, **NO_TIMM),
    ),
    "coord": (
        {"reduction": 3},
        lambda: CoordAttn(CHANNELS, rd_ratio=1 / 3, se_factor=1, bias=True, **NO_TIMM),
    ),
    "sk": (
        {"groups": 4},
        lambda: SelectiveKernel(
            CHANNELS, groups=4, rd_channels=32, split_input=False, **NO_TIMM
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TIMM)
def test_is_timms(name: str) -> None:
    options, make = TIMM[name]
    ours = trained(name, CHANNELS, **options)
    theirs = make()
    theirs.load_state_dict(ours.state_dict())
    x = maps(2, CHANNELS, 5, 6)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_gather_excite_without_parameters() -> None:
    # By the mean over a window of 2 e - 1 positions, the map's edges left out.
    x = maps(1, 2, 5, 3)
    gate = torch.zeros(1, 2, 3, 2, dtype=x.dtype)
    for i in range(3):
        for j in range(2):
            window = x[:, :, max(2 * i - 1, 0) : 2 * i + 2, max(2 * j - 1, 0) : 2 * j + 2]
            gate[:, :, i, j] = torch.sigmoid(window.mean((2, 3)))
    rows, columns = [0, 0, 1, 1, 2], [0, 0, 1]
    layer = ATTENTION["ge"](2, extent=2, learned=False)
    close(layer(x), x * gate[:, :, rows][:, :, :, columns])


def test_gather_excite_of_the_whole_map_is_squeeze_excite() -> None:
    ours = trained("ge", CHANNELS, extent=0, learned=False, mlp=True, reduction=3)
    se = ATTENTION["se"](CHANNELS, reduction=3, dtype=torch.float64)
    se.load_state_dict({key.removeprefix("mlp."): v for key, v in ours.state_dict().items()})
    x = maps(2, CHANNELS, 5, 6)
    close(ours(x), se(x))


def test_selective_kernel_takes_the_place_of_a_convolution() -> None:
    layer: Any = ATTENTION["sk"](24, out_channels=40, stride=2, dilation=2)
    plain = torch.nn.Conv2d(24, 40, 3, stride=2, padding=2, dilation=2)
    x = maps(2, 24, 9, 7, dtype=torch.float32)
    assert layer(x).shape == plain(x).shape
    assert [path.conv.groups for path in layer.paths] == [8, 8]
    assert [path.conv.dilation for path in layer.paths] == [(2, 2), (4, 4)]


BATCHNORM_OF_MEANS = {"bam", "sk", "srm"}
BATCHNORM_OF_POSITIONS = {"cbam", "ge", "triplet"}


@pytest.mark.parametrize("channels", [8, 12, 24, 40])
@pytest.mark.parametrize("name", ATTENTION)
def test_small_and_odd_maps(name: str, channels: int) -> None:
    options = {"groups": "auto"} if name == "sge" else {}
    layer: Any = ATTENTION[name](channels, **options)
    for size in ((1, 1), (1, 5), (3, 2), (9, 9)):
        for batch in (1, 2):
            x = maps(batch, channels, *size, dtype=torch.float32).requires_grad_()
            layer.eval()(x).sum().backward()
            assert x.grad is not None
            assert x.grad.isfinite().all()
            refuses = name in BATCHNORM_OF_MEANS or (
                name in BATCHNORM_OF_POSITIONS
                and (size == (1, 1) or (name == "ge" and max(size) <= 8))
            )
            if batch == 1 and refuses:
                with pytest.raises(ValueError, match="more than 1 value per channel"):
                    layer.train()(x)
                continue
            y = layer.train()(x)
            assert y.shape == x.shape
            assert y.isfinite().all()


@pytest.mark.parametrize("name", ["srm", "simam", "sa"])
def test_other_dimensions(name: str) -> None:
    layer = trained(name, 8)
    x = maps(2, 8, 3, 4)
    for shape in ((2, 8, 12), (2, 8, 3, 2, 2)):
        assert torch.equal(layer(x.reshape(shape)).reshape(x.shape), layer(x))


@pytest.mark.parametrize("name", EQUATIONS)
def test_constant_maps(name: str) -> None:
    layer = trained(name, 8, torch.float32).eval()
    x = torch.full((2, 8, 4, 4), 3.0, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["srm", "simam", "sa"])
def test_numbers_whose_square_is_more_than_fp16_holds(name: str) -> None:
    layer = trained(name, 8, torch.float32).eval()
    x = (maps(2, 8, 4, 5, dtype=torch.float32) * 1000).half()
    expected = EQUATIONS[name](x.double(), state_of(layer), False)
    with torch.autocast("cpu", torch.float16):
        assert relative_rms(layer(x), expected) < 2e-3


WRONG: dict[str, tuple[str, int, dict[str, Any], str]] = {
    "sa, odd": ("sa", 9, {}, "9 channels can't be halved"),
    "sa": ("sa", 64, {"groups": 48}, "halves the 64.*48 groups .* 32 channels.*16, 32"),
    "ema": ("ema", 24, {"groups": 5}, "5 groups .* 24 channels.*4, 6, 8.*nearest to 32"),
    "sk": ("sk", 24, {"groups": 5}, "5 groups .* 24 channels.*4, 6, 8"),
    "ge": ("ge", 8, {"extent": 6}, "2, 4, 8.*not 6"),
    "ge, whole": ("ge", 8, {"extent": 0}, "learned=False"),
    "triplet": ("triplet", 8, {"kernel_size": 4}, "odd.*not 4"),
    "simam": ("simam", 8, {"regularization": 0.0}, "above 0, not 0.0"),
    **{
        name: (name, 8, {"reduction": 0}, "reduction must be at least 1, not 0")
        for name in ("se", "cbam", "bam", "sk", "gc", "coord")
    },
    "bam, channels": ("bam", 0, {}, "channels must be at least 1, not 0"),
}


@pytest.mark.parametrize(("name", "channels", "options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_named(
    name: str, channels: int, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ATTENTION[name](channels, **options)


@pytest.mark.parametrize("name", ATTENTION)
def test_devices_dtypes_and_state(name: str) -> None:
    options: dict[str, Any] = {"groups": "auto"} if name == "sge" else {}
    layer = ATTENTION[name](CHANNELS, device="meta", dtype=torch.bfloat16, **options)
    for tensor in (*layer.parameters(), *layer.buffers()):
        assert tensor.device.type == "meta"
        assert tensor.dtype in (torch.bfloat16, torch.int64)
    one = trained(name, CHANNELS, **options)
    other = ATTENTION[name](CHANNELS, dtype=torch.float64, **options)
    other.load_state_dict(one.state_dict())
    x = maps(2, CHANNELS, 3, 4)
    assert torch.equal(one.eval()(x), other.eval()(x))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("cbam", "sk", "sa", "ema") else pytest.mark.slow)
        for name in EQUATIONS
    ],
)
def test_compiles_whole(name: str) -> None:
    layer = trained(name, 8, torch.float32)
    compiled: Any = torch.compile(layer, backend="eager", fullgraph=True, dynamic=False)
    x = maps(2, 8, 5, 4, dtype=torch.float32)
    torch.testing.assert_close(compiled(x), copy.deepcopy(layer)(x))
