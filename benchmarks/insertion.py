"""Does `insert` work on real networks? Puts SGE into every network listed here and checks it.

    python benchmarks/insertion.py            # all; writes docs/results/insertion.json
    python benchmarks/insertion.py resnet18   # these alone, as text

Networks have random weights: norms, gains, layer scales and running statistics too, so that no
branch counts for nothing. A name is timm's, or torchvision's behind "torchvision:".
"""

import argparse
import json
import platform
import re
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, cast

import timm
import torch
import torchvision
from torch import Tensor, nn

from sgekit import InputError, insert, remove
from sgekit.models.insertion import find_places
from sgekit.models.insertion.host import is_host
from sgekit.models.insertion.trace import trace

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results" / "insertion.json"
PAGE = DOCS / "insertion.md"
TORCHVISION = "torchvision:"

NETWORKS = {
    "ResNet": ("resnet18", "resnet50d", "resnetv2_50", "torchvision:resnet18"),
    "RegNet": ("regnetx_002", "regnety_002", "torchvision:regnet_y_400mf"),
    "ResNeXt": ("resnext50_32x4d", "torchvision:resnext50_32x4d"),
    "Res2Net": ("res2net50_14w_8s", "res2next50"),
    "ResNeSt": ("resnest14d", "resnest50d_1s4x24d"),
    "SKNet": ("skresnet18", "skresnext50_32x4d"),
    "SENet": ("seresnet18", "ecaresnet26t"),
    "DenseNet": ("densenet121", "torchvision:densenet121"),
    "HRNet": ("hrnet_w18_small", "hrnet_w18_small_v2"),
    "EfficientNet": (
        "efficientnet_b0", "tf_efficientnetv2_b0", "tf_efficientnet_lite0",
        "torchvision:efficientnet_b0",
    ),
    "MobileNetV2": ("mobilenetv2_050", "torchvision:mobilenet_v2"),
    "MobileNetV3": ("mobilenetv3_small_050", "torchvision:mobilenet_v3_small"),
    "MobileNetV4": ("mobilenetv4_conv_small", "mobilenetv4_hybrid_medium"),
    "MNASNet, MixNet": ("mnasnet_small", "mixnet_s", "torchvision:mnasnet0_5"),
    "GhostNet": ("ghostnet_050", "ghostnetv2_100"),
    "ShuffleNetV2": ("torchvision:shufflenet_v2_x0_5", "torchvision:shufflenet_v2_x1_0"),
    "ConvNeXt": ("convnext_atto", "convnextv2_atto", "torchvision:convnext_tiny"),
    "CSPNet, DarkNet": ("cspresnet50", "cs3darknet_s", "cspdarknet53", "darknet53"),
    "VGG": ("vgg11", "vgg11_bn", "torchvision:vgg11_bn"),
    "AlexNet, SqueezeNet": ("torchvision:alexnet", "torchvision:squeezenet1_1"),
    "Inception": (
        "inception_v3", "inception_v4", "inception_next_atto", "torchvision:inception_v3",
        "torchvision:googlenet",
    ),
    "NFNet": ("eca_nfnet_l0", "nf_regnet_b0", "nf_resnet50"),
    "RepVGG": ("repvgg_a0",),
    "DLA, DPN": ("dla34", "dpn48b"),
    "Xception, RexNet": ("xception41", "rexnet_100"),
    "VoVNet, SelecSLS": ("ese_vovnet19b_dw", "selecsls42"),
    "ConvMixer, PoolFormer": ("convmixer_768_32", "poolformer_s12"),
    "video, 3-D": ("torchvision:r3d_18", "torchvision:mc3_18"),
    "transformers, mixers": (
        "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "mixer_s32_224",
        "torchvision:vit_b_16",
    ),
}  # fmt: skip
"""Family -> names."""

SIZES = {
    "inception_v3": (3, 96, 96), "inception_v4": (3, 96, 96),
    "torchvision:inception_v3": (3, 96, 96), "torchvision:r3d_18": (3, 8, 48, 48),
    "torchvision:mc3_18": (3, 8, 48, 48),
}  # fmt: skip
USUAL_SIZE = (3, 64, 64)
PRESERVED = 1e-5
"""What the logits may differ by, relative to the largest."""


def build(name: str, seed: int) -> nn.Module:
    """The network with random numbers in all that starts as constants."""
    torch.manual_seed(seed)
    if name.startswith(TORCHVISION):
        short = name.removeprefix(TORCHVISION)
        # Without the auxiliary classifiers, which need larger images.
        has_aux = short in ("googlenet", "inception_v3")
        options = {"aux_logits": False, "init_weights": False} if has_aux else {}
        model: nn.Module = torchvision.models.get_model(short, weights=None, **options)
    else:
        model = timm.create_model(name)
    for module in model.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor):
            nn.init.normal_(module.running_mean, 0, 0.1)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    for path, parameter in model.named_parameters():
        low, high = (float(end) for end in parameter.detach().aminmax())
        if low == high and path.endswith("bias"):
            nn.init.normal_(parameter, 0, 0.1)
        elif low == high:
            # Layer scales and gains of whole branches start near 0.
            nn.init.uniform_(parameter, *((0.5, 1.5) if low == 1 else (0.2, 0.6)))
    return model.eval()


def inputs(name: str) -> Tensor:
    return torch.randn(2, *SIZES.get(name, USUAL_SIZE), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def logits(model: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = model(x)
    return out


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the largest number."""
    return float((a - b).abs().max() / b.abs().max())


def check(name: str, *, compiled: bool = True) -> dict[str, Any]:
    """Everything that the table says of one network."""
    model, x = build(name, seed=0), inputs(name)
    before = list(model.state_dict())
    row: dict[str, Any] = {"network": name, "input": list(x.shape[1:])}
    rule = Counter(place.rule for place in find_places(model, trace(model)))
    plain = logits(model, x) if rule else None
    try:
        names = insert(model, "sge", groups="auto")
    except InputError as error:
        return row | {"refused": str(error)}
    assert plain is not None
    preserved = difference(logits(model, x), plain)
    layers: list[Any] = [model.get_submodule(layer) for layer in names]
    channels = [layer.channels for layer in layers]
    buffers = sum(
        is_host(module) and module.attention_scale is not None for module in model.modules()
    )
    row |= {
        "refused": None,
        "rule": " + ".join(rule),
        "layers": len(names),
        "first": names[0],
        "last": names[-1],
        "channels": [min(channels), max(channels)],
        "in_weights": len(names) - buffers,
        "in_buffers": buffers,
        "preserved": preserved,
    }
    row["gradients"] = gradients(model, layers, x)
    for layer in layers:
        nn.init.normal_(layer.weight, 0, 0.5)
    trained = logits(model, x)
    row["changed"] = difference(trained, plain)
    row["state_dict"] = difference(logits(reloaded(name, model), x), trained)
    row["compiled"] = difference(logits(compile_whole(model), x), trained) if compiled else None
    remove(model)
    row["names_restored"] = list(model.state_dict()) == before
    row["removed"] = difference(logits(model, x), plain)
    # Where rounding is large, exact arithmetic tells whether it is rounding.
    rounded = max(row["preserved"], row["removed"]) > PRESERVED
    return row | {"float64": in_float64(name, x) if rounded else None}


def in_float64(name: str, x: Tensor) -> float:
    """By how much the logits change by insertion and by removal."""
    model, x = build(name, seed=0).double(), x.double()
    plain = logits(model, x)
    insert(model, "sge", groups="auto")
    preserved = difference(logits(model, x), plain)
    remove(model)
    return max(preserved, difference(logits(model, x), plain))


def gradients(model: nn.Module, layers: list[Any], x: Tensor) -> bool:
    """Whether a step of training gives every SGE layer finite gradients, and most other than 0.

    A map of one position has none for the weight; one of ReLU's dead channels could have none.
    """
    kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.train()
    torch.manual_seed(2)
    model(x).square().mean().backward()
    model.eval()
    for name, buffer in model.named_buffers():
        buffer.copy_(kept[name])  # the running statistics have moved
    found = [layer.bias.grad for layer in layers]
    finite = all(
        parameter.grad is not None and bool(parameter.grad.isfinite().all())
        for layer in layers
        for parameter in layer.parameters()
    )
    model.zero_grad()
    return finite and all(bool(grad.any()) for grad in found)


def reloaded(name: str, model: nn.Module) -> nn.Module:
    other = build(name, seed=5)
    insert(other, "sge", groups="auto")
    other.load_state_dict(model.state_dict())
    return other


def compile_whole(model: nn.Module) -> nn.Module:
    torch.compiler.reset()
    whole: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    return cast(nn.Module, whole)


def holds(row: dict[str, Any]) -> list[str]:
    """What a row says that it should not; nothing for a network that is refused."""
    if row["refused"] is not None:
        return []
    exact = row["float64"] is not None and row["float64"] <= 1e-12
    conditions = {
        "preserved": row["preserved"] <= (10 * PRESERVED if exact else PRESERVED),
        "gradients": row["gradients"],
        "changed": row["changed"] > 1e-4,
        "state_dict": row["state_dict"] <= 1e-6,
        "compiled": row["compiled"] is None or row["compiled"] <= 1e-4,
        "names_restored": row["names_restored"],
        "removed": row["removed"] <= (10 * PRESERVED if exact else PRESERVED),
    }
    return [f"{name}={row[name]}" for name, held in conditions.items() if not held]


HEAD = "| family | network | rule | layers | first | channels | factor in | logits differ by |"


def table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/insertion.md."""
    lines = [HEAD, "|---|---|---|---:|---|---|---|---:|"]
    for row in rows:
        start = f"| {row['family']} | `{row['network']}` |"
        if row["refused"] is not None:
            reason = row["refused"].partition(": ")[2].partition(";")[0]
            lines.append(f"{start} refused: {reason} | 0 | – | – | – | – |")
            continue
        low, high = row["channels"]
        float64 = "" if row["float64"] is None else f" (float64: {row['float64']:.0e})"
        held = {"weights": row["in_weights"], "buffers": row["in_buffers"]}
        where = ", ".join(place for place, count in held.items() if count)
        lines.append(
            f"{start} {row['rule']} | {row['layers']} | `{row['first']}` | {low}–{high} | {where} "
            f"| {row['preserved']:.0e}{float64} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("networks", nargs="*", help="names; all where none is given")
    asked = parser.parse_args().networks
    torch.set_num_threads(1)
    rows, failed = [], 0
    for family, networks in NETWORKS.items():
        for name in networks:
            if asked and name not in asked:
                continue
            began = time.perf_counter()
            row = {"family": family} | check(name)
            rows.append(row)
            wrong = holds(row)
            failed += bool(wrong)
            print(f"{name}: {wrong or 'ok'} ({time.perf_counter() - began:.0f} s)", flush=True)
            if asked:
                print(json.dumps(row, indent=2))
    if failed:
        sys.exit(f"{failed} networks fail; nothing is written")
    if asked:
        return
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "torchvision": torchvision.__version__,
    }
    result = {"command": "python benchmarks/insertion.py", "versions": versions, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    pattern = re.escape(HEAD) + r"(\n\|[^\n]*)*"
    PAGE.write_text(re.sub(pattern, lambda _: table(rows), page), encoding="utf-8")


if __name__ == "__main__":
    main()
