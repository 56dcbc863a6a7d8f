import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import sgekit.models  # noqa: F401  (registers the networks)
from sgekit.errors import InputError
from sgekit.models.released import ReleasedBam, ReleasedCbam, SelectiveBottleneck
from tests.models import released

# The paper's millions of parameters, to its digits, and the exact number.
PARAMETERS = {
    "resnet50": (25.56, 25_557_032),
    "resnet101": (44.55, 44_549_160),
    "sge_resnet50": (25.56, 25_559_080),
    "sge_resnet101": (44.55, 44_553_384),
    "se_resnet50": (28.09, 28_088_024),
    "se_resnet101": (49.33, 49_326_872),
    "sk_resnet50": (26.15, 26_154_496),
    "sk_resnet101": (45.68, 45_678_112),
    "bam_resnet50": (25.92, 25_915_099),
    "bam_resnet101": (44.91, 44_907_227),
    "cbam_resnet50": (28.09, 28_089_624),
    "cbam_resnet101": (49.33, 49_330_172),
}

WIDTHS = (32, 64, 96, 128)


def on_meta(name: str, **options: Any) -> Any:
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.mark.parametrize("name", [name for name in PARAMETERS if name[:3] != "res"])
def test_parameters_are_the_papers(name: str) -> None:
    published, exact = PARAMETERS[name]
    count = sum(p.numel() for p in on_meta(name).parameters())
    kind, _, base = name.rpartition("_")
    depth = int(base.removeprefix("resnet"))
    assert count == exact == released.parameters(released.shapes(kind or "plain", depth))
    assert round(count / 1e6, 2) == published


def test_the_documentation_has_them_too() -> None:
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)`, `(\w+)` \|.* \| ([\d,]+) \| ([\d,]+) \|$", page, re.M)
    told = {name: count for row in rows for name, count in zip(row[:2], row[2:], strict=True)}
    assert told == {name: f"{exact:,}" for name, (_, exact) in PARAMETERS.items()}


def test_a_released_file_has_352_weights_for_sge() -> None:
    assert len(released.shapes("sge")) == 352


@pytest.mark.parametrize("kind", ["se", "sk", "cbam", "bam"])
def test_takes_what_timm_resnets_take(kind: str) -> None:
    def make(**options: Any) -> Any:
        return timm.create_model(
            f"{kind}_resnet50", layers=(1, 1, 1, 1), channels=WIDTHS, **options
        )

    x = torch.randn(2, 3, 64, 64)
    assert make(num_classes=7, in_chans=1, drop_path_rate=0.1)(x[:, :1]).shape == (2, 7)
    features = make(features_only=True, out_indices=(1, 2, 3))
    found = [tuple(f.shape) for f in features(x)]
    assert found == [(2, 128, 16, 16), (2, 256, 8, 8), (2, 384, 4, 4)]
    assert features.feature_info.channels() == [128, 256, 384]
    # A backbone of a detector dilates its last stage instead of striding it.
    assert make(features_only=True, output_stride=16)(x)[-1].shape == (2, 512, 4, 4)


def test_where_the_attention_is() -> None:
    bam = [n for n, m in on_meta("bam_resnet50").named_modules() if isinstance(m, ReleasedBam)]
    assert bam == ["layer1.bam", "layer2.bam", "layer3.bam"]
    cbam = [n for n, m in on_meta("cbam_resnet50").named_modules() if isinstance(m, ReleasedCbam)]
    assert len(cbam) == 16
    assert cbam[0] == "layer1.0.se"
    sk = [m for m in on_meta("sk_resnet50").modules() if isinstance(m, SelectiveBottleneck)]
    assert len(sk) == 16


def test_the_released_start() -> None:
    torch.manual_seed(0)
    cbam = ReleasedCbam(32)
    x = torch.randn(2, 32, 5, 5)
    channel = cbam._mlp(x.mean((2, 3))) + cbam._mlp(x.amax((2, 3)))
    # Every position starts with the gate 1/2.
    torch.testing.assert_close(cbam(x), 0.5 * x * channel.sigmoid()[:, :, None, None])
    assert all(not m.bias.any() for m in ReleasedBam(32).modules() if isinstance(m, nn.Linear))
    small: Any = timm.create_model("sk_resnet50", channels=(32, 32, 32, 32), layers=(1, 1, 1, 1))
    assert (small.layer1[0].bn3.weight == 1).all()
    timms: Any = timm.create_model(
        "sk_resnet50", channels=(32, 32, 32, 32), layers=(1, 1, 1, 1), zero_init_last=True
    )
    assert not timms.layer1[0].bn3.weight.any()


@pytest.mark.parametrize("kind", ["se", "sk", "cbam", "bam"])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "channels_last"])
def test_every_weight_learns(kind: str, channels_last: bool) -> None:
    torch.manual_seed(0)
    small: dict[str, Any] = {"channels": (32, 64, 64, 64), "layers": (1, 1, 1, 1)}
    model: Any = timm.create_model(f"{kind}_resnet50", num_classes=3, **small)
    x = torch.randn(2, 3, 64, 64)
    if channels_last:
        model = model.to(memory_format=torch.channels_last)
        x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        # Away from the start, where some gradients are 0.
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    model(x).square().sum().backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not still


def test_weights_that_cannot_be_fetched() -> None:
    with pytest.raises(InputError, match=r"'bam_resnet50'.*sgekit\.load_checkpoint"):
        timm.create_model("bam_resnet50", pretrained=True)
