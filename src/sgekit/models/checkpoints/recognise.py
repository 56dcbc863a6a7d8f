"""Which network weights belong to, told from their names and shapes."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

import timm
from timm.models.resnet import Bottleneck

from sgekit.models.zoo import ARCHITECTURES, CIFAR, default_groups

Shapes = Mapping[str, tuple[int, ...]]

# A key that only this attention has, the released names first, sgekit's and timm's after.
_MARKS: tuple[tuple[str, str], ...] = (
    ("sge", r"\.sge\.weight$"),
    ("se", r"\.se\.fc\.0\.weight$"),
    ("cbam", r"\.cbam\.ChannelGate\."),
    ("bam", r"^bam1\.channel_att\."),
    ("sk", r"\.conv2g\.weight$"),
    ("gc", r"\.gc\.conv_mask\.weight$"),
    ("se", r"\.se\.fc1\.weight$"),
    ("cbam", r"\.se\.reduce\.weight$"),
    ("cbam of its paper", r"\.se\.channel\.fc1\.weight$"),
    ("bam", r"^layer1\.bam\."),
    ("sk", r"\.conv2_grouped\.weight$"),
    ("eca", r"\.se\.conv\.weight$"),
)
_NAMES = {
    **{name: name.upper() for name in ("sge", "se", "cbam", "bam", "sk", "gc", "eca")},
    "cbam of its paper": "CBAM (its paper's)",
    "other": "attention",
}


@dataclass(frozen=True)
class Network:
    """A residual network as its weights show it."""

    attention: str
    """ "none", a mechanism, or "other" for one in timm's place that is not known by its keys."""
    base: str | None
    """timm's name of the plain network, where it is one of ARCHITECTURES."""
    blocks: tuple[int, ...]
    classes: int | None
    """None: no classifier."""
    groups: int | None
    """SGE's, where every layer has as many."""

    @property
    def text(self) -> str:
        """Such as "SGE-ResNet-50"."""
        plain = self.base or f"ResNet of {'+'.join(map(str, self.blocks))} blocks"
        if found := re.fullmatch(r"resnet(\d+)(d?)(_cifar)?", plain):
            plain = f"ResNet-{found[1]}{found[2].upper()}{' for CIFAR' if found[3] else ''}"
        before = "" if self.attention == "none" else f"{_NAMES[self.attention]}-"
        usual = default_groups(self.base or "")
        after = f" with {self.groups} groups" if self.groups not in (None, usual) else ""
        return f"{before}{plain}{after}"


def recognise(shapes: Shapes) -> Network | None:
    """The network with these weights, by timm's or the released names; None for other families."""
    stages: dict[int, int] = {}
    for name in shapes:
        if found := re.match(r"layer(\d)\.(\d+)\.conv1\.", name):
            stage, block = int(found[1]), int(found[2])
            stages[stage] = max(stages.get(stage, 0), block + 1)
    if not stages or sorted(stages) != [*range(1, len(stages) + 1)]:
        return None
    blocks = tuple(stages[stage] for stage in sorted(stages))
    attention = _attention(shapes)
    classifier = shapes.get("fc.weight")
    return Network(
        attention,
        _BASES.get(_signature(shapes, blocks)),
        blocks,
        classifier[0] if classifier else None,
        _groups(shapes) if attention == "sge" else None,
    )


def model_name(network: Network) -> str | None:
    """The name by which timm builds the network after `import sgekit.models`; None without one."""
    if network.base is None:
        return None
    name = network.base if network.attention == "none" else f"{network.attention}_{network.base}"
    return name if timm.is_model(name) else None


def _attention(shapes: Shapes) -> str:
    for attention, pattern in _MARKS:
        if any(re.search(pattern, name) for name in shapes):
            return attention
    slot = [name for name in shapes if re.search(r"\.se\.", name)]
    if slot and all(re.search(r"\.se\.(weight|bias)$", name) for name in slot):
        return "sge"
    return "other" if slot else "none"


def _groups(shapes: Shapes) -> int | None:
    sizes = {
        math.prod(shape) for name, shape in shapes.items() if re.search(r"\.sg?e\.weight$", name)
    }
    return sizes.pop() if len(sizes) == 1 else None


_Signature = tuple[bool, tuple[int, ...], int, int, int, bool, int]


def _signature(shapes: Shapes, blocks: tuple[int, ...]) -> _Signature | None:
    """What tells residual networks apart.

    Their blocks, the width of the 3x3 and its channels a group, the width of a deep stem (0: one
    convolution), whether shortcuts are pooled, and the stem's kernel (0: a deep one).
    """
    bottleneck = "layer1.0.conv3.weight" in shapes
    wide = shapes.get("layer1.0.conv2.weight")
    if wide is None or len(wide) != 4:
        return None
    stem = shapes.get("conv1.0.weight", (0,))[0]
    pooled = len(shapes.get("layer2.0.downsample.1.weight", ())) == 4
    kernel = shapes.get("conv1.weight", (0,))[-1]
    return bottleneck, blocks, wide[0], wide[1], stem, pooled, kernel


def _signatures() -> dict[_Signature | None, str]:
    found: dict[_Signature | None, str] = {}
    for name, parts in ARCHITECTURES.items():
        first = parts.get("channels", (64,))[0]
        cardinality = parts.get("cardinality", 1)
        width = first * parts.get("base_width", 64) // 64 * cardinality
        deep = parts.get("stem_type") == "deep"
        key = (
            parts["block"] is Bottleneck,
            tuple(parts["layers"]),
            width,
            width // cardinality,
            parts["stem_width"] if deep else 0,
            parts.get("avg_down", False),
            0 if deep else 3 if name.endswith(CIFAR) else 7,
        )
        found[key] = name
    return found


_BASES = _signatures()
