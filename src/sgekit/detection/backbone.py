"""A network of timm with a feature pyramid on top, as torchvision's detectors want it."""

import math
from collections import OrderedDict
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal, Self

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN as IMAGENET_MEAN
from timm.data.constants import IMAGENET_DEFAULT_STD as IMAGENET_STD
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from sgekit.detection.norms import Norm, group_norm, to_group_norm
from sgekit.errors import InputError
from sgekit.models import build, insert
from sgekit.models.contender import parse
from sgekit.models.slots import slots
from sgekit.models.zoo import PREFIX, default_groups

STRIDES = (4, 8, 16, 32)
STAGES = 5
"""What can be frozen: the stem and the stages that end at the four strides."""

_PIXELS = 256


@dataclass(frozen=True)
class Spec:
    """What a backbone's body is: enough to build the classification network of the same kind."""

    name: str
    """timm's name of the plain network."""
    attention: str
    groups: int | Literal["auto"] | None
    in_chans: int


class PyramidBackbone(nn.Module):
    """(B, C, H, W) to the maps of a pyramid by their names, all with `out_channels`.

    `body` gives the network's maps at STRIDES, `fpn` makes the pyramid of the last of them.
    In training, BatchNorm keeps its statistics where `frozen_norms` says so, and what is frozen
    stays in evaluation mode.
    """

    def __init__(self, body: nn.Module, fpn: Any, spec: Spec, norm: Norm, channels: int) -> None:
        super().__init__()
        self.out_channels = channels
        self.body = body
        self.fpn = fpn
        self.spec = spec
        self.frozen_norms = norm == "frozen"
        self.lost_norms = 0
        """How many BatchNorms became GroupNorms, which take no statistics from a file."""
        self.frozen: tuple[str, ...] = ()
        """The modules of the body that are frozen."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.body(images)[-len(self.fpn.inner_blocks) :]
        named = OrderedDict((str(level), one) for level, one in enumerate(maps))
        pyramid: dict[str, Tensor] = self.fpn(named)
        return pyramid

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            for name in self.frozen:
                self.body.get_submodule(name).eval()
            for module in self.body.modules() if self.frozen_norms else ():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """What the body's pictures are normalised with, a number a channel: timm's word.

        With other than three channels all have the mean of the three.
        """
        config = timm.get_pretrained_cfg(self.spec.name)
        mean, std = (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)
        if self.spec.in_chans == len(mean):
            return list(mean), list(std)
        return [fmean(mean)] * self.spec.in_chans, [fmean(std)] * self.spec.in_chans

    def freeze(self, stages: int) -> list[str]:
        """Freeze the stem (1), the stage that ends at stride 4 as well (2) and so on.

        What is frozen is what the map at that stride is computed from. Returns the parameters'
        names. Raises InputError where the stem can't be told from the first stage.
        """
        if not stages:
            return []
        names = _feeding(self.body, self.spec, max(stages - 2, 0))
        if stages == 1:
            # timm's networks of features call a module "stages_0" that it calls "stages.0" itself.
            info: Any = self.body.feature_info
            first = info.module_name()[0]
            inside = (f"{first}.", f"{first.replace('.', '_', 1)}.")
            stem = [name for name in names if not name.startswith(inside)]
            if len(stem) == len(names):
                raise InputError(
                    f"{self.spec.name} has no stem apart from its first stage; "
                    "frozen_stages may be 0 or 2 to 5"
                )
            names = stem
        frozen = set(names)
        for name in names:
            self.body.get_parameter(name).requires_grad_(False)
        self.frozen = tuple(
            name
            for name, module in self.body.named_modules()
            if (own := [f"{name}.{p}" for p, _ in module.named_parameters()]) and frozen >= set(own)
        )
        return names


def pyramid_backbone(
    name: str,
    *,
    levels: int,
    attention: str,
    groups: int | Literal["auto"] | None,
    norm: Norm,
    pretrained: bool,
    in_chans: int,
    fpn_channels: int,
    zero_init_last: bool,
) -> PyramidBackbone:
    """A backbone without attention yet; `attend` puts it in when the rest of the detector is made.

    `levels` is 4 for R-CNN, from stride 4 on and with a subsampled map on top, and 3 for
    RetinaNet, from stride 8 on and with P6 and P7 on top (arXiv 1708.02002, section 4). Raises
    InputError for a network whose maps don't have these strides.
    """
    base, attention = _split(name, attention)
    spec = Spec(base, attention, groups, in_chans)
    indices, channels = _maps(spec)
    start: dict[str, Any] = {} if zero_init_last else {"zero_init_last": False}
    body = build(
        base,
        pretrained=pretrained,
        in_chans=in_chans,
        features_only=True,
        out_indices=indices,
        **start,
    )
    _check_maps(body, spec, channels)
    exchanged = to_group_norm(body) if norm == "group" else 0
    if pretrained and exchanged:
        raise InputError(
            f"norm='group' replaces the {exchanged} BatchNorms of {base}, so that its pretrained "
            "weights mean nothing; train from scratch, or take norm='frozen', 'batch' or 'sync'"
        )
    fpn = FeaturePyramidNetwork(
        channels[-levels:],
        fpn_channels,
        LastLevelMaxPool() if levels == 4 else LastLevelP6P7(fpn_channels, fpn_channels),
        group_norm if norm == "group" else None,
    )
    backbone = PyramidBackbone(body, fpn, spec, norm, fpn_channels)
    backbone.lost_norms = exchanged
    return backbone


def attend(backbone: PyramidBackbone, *, preserve: bool) -> list[str]:
    """Put the attention of the backbone's spec into its body; returns the layers' names."""
    spec = backbone.spec
    contender = parse(spec.attention)
    if contender.name == "none":
        return []
    groups = spec.groups if contender.takes_groups else "auto"
    if groups is None:
        first = next(slots(backbone.body), None)
        groups = "auto" if first is None else default_groups(spec.name, first.channels)
    has_weights = not any(parameter.is_meta for parameter in backbone.body.parameters())
    try:
        names = insert(
            backbone.body,
            spec.attention,
            groups=groups,
            preserve=contender.starts_neutral(trained=preserve) and has_weights,
            example_inputs=torch.zeros(1, spec.in_chans, _PIXELS, _PIXELS),
        )
    except InputError as error:
        raise InputError(f"{spec.name}: {error}") from None
    return names


def attend_pyramid(backbone: PyramidBackbone, attention: str) -> list[str]:
    """Put attention behind every convolution that makes a map of the pyramid."""
    fpn: Any = backbone.fpn
    places = [f"fpn.layer_blocks.{n}.{len(block) - 1}" for n, block in enumerate(fpn.layer_blocks)]
    if isinstance(fpn.extra_blocks, LastLevelP6P7):
        places += ["fpn.extra_blocks.p6", "fpn.extra_blocks.p7"]
    return insert(
        backbone,
        attention,
        where=places,
        groups="auto",
        preserve=False,
        example_inputs=torch.zeros(1, backbone.spec.in_chans, _PIXELS, _PIXELS),
    )


def _split(name: str, attention: str) -> tuple[str, str]:
    """The plain network's name, and the attention: "sge" where the name begins with that."""
    if not name.startswith(PREFIX):
        return name, attention
    if parse(attention).name not in ("none", "sge"):
        raise InputError(
            f"backbone {name!r} has SGE and attention is {attention!r}; "
            f"name the plain network, {name.removeprefix(PREFIX)!r}, for other attention"
        )
    return name.removeprefix(PREFIX), "sge" if attention == "none" else attention


def _maps(spec: Spec) -> tuple[tuple[int, ...], list[int]]:
    """Which of timm's maps have the strides, and their channels."""
    with torch.device("meta"):
        # Also says what is wrong with the name.
        features: Any = build(spec.name, features_only=True, in_chans=spec.in_chans)
    info = features.feature_info.info
    found = {entry["reduction"]: index for index, entry in enumerate(info)}
    if missing := [stride for stride in STRIDES if stride not in found]:
        raise InputError(
            f"{spec.name} has no map at stride {', '.join(map(str, missing))}, its maps have "
            f"{', '.join(map(str, sorted(found)))}: a feature pyramid needs a network with stages "
            "such as resnet50, mobilenetv3_small_100 or convnext_tiny"
        )
    indices = tuple(found[stride] for stride in STRIDES)
    return indices, [int(info[index]["num_chs"]) for index in indices]


def _check_maps(body: nn.Module, spec: Spec, channels: list[int]) -> None:
    """Raise InputError where the maps are not what the network says, or not (B, C, H, W)."""
    try:
        maps, _ = _run(body, spec)
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"{spec.name} takes no picture of {_PIXELS}x{_PIXELS} ({reason}); a detector's "
            "pictures have many sizes"
        ) from error
    for one, width, stride in zip(maps, channels, STRIDES, strict=True):
        shape = tuple(one.shape)
        fits = len(shape) == 4 and shape[1] == width
        if not fits or round(math.log2(_PIXELS / shape[2])) != math.log2(stride):
            raise InputError(
                f"{spec.name} gives a map {shape} where (1, {width}, {_PIXELS // stride}, "
                f"{_PIXELS // stride}) is needed; take a convolutional network"
            )


def _feeding(body: nn.Module, spec: Spec, level: int) -> list[str]:
    """The parameters that the body's map at STRIDES[level] is computed from."""
    maps, weights = _run(body, spec)
    gradients = torch.autograd.grad(maps[level].sum(), list(weights.values()), allow_unused=True)
    return [name for name, g in zip(weights, gradients, strict=True) if g is not None]


def _run(body: nn.Module, spec: Spec) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The body's maps, as shapes with a graph behind them, and the parameters in that graph."""
    weights = {
        name: tensor.detach().to("meta").requires_grad_()
        for name, tensor in body.named_parameters()
    }
    buffers = {name: tensor.to("meta") for name, tensor in body.named_buffers()}
    image = torch.empty(1, spec.in_chans, _PIXELS, _PIXELS, device="meta")
    training = {module: module.training for module in body.modules()}
    try:
        maps: list[Tensor] = functional_call(body.eval(), weights | buffers, (image,))
    finally:
        for module, mode in training.items():
            module.training = mode
    return maps, weights
