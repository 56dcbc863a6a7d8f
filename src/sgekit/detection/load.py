"""A file's weights into a detector: a classification network's into its backbone, or all."""

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sgekit.detection.backbone import PyramidBackbone
from sgekit.errors import InputError
from sgekit.models import build
from sgekit.models.checkpoints import Contents, load_contents, read_torch, read_weights
from sgekit.models.contender import parse

# What torchvision called weights before its heads were made of blocks with a norm each.
_OLDER: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2"),
        (r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2"),
    )
)
_MASK_HEAD = re.compile(r"^(roi_heads\.mask_head)\.mask_fcn(\d)\.(weight|bias)$")
_TOWERS = re.compile(r"^(head\.\w+_head\.conv)\.(\d)\.(weight|bias)$")

_CLASSES = re.compile(
    r"\.box_predictor\.(?:\d\.)?(?:cls_score|bbox_pred)\."
    r"|\.mask_predictor\.mask_fcn_logits\.|\.classification_head\.cls_logits\."
)
"""The layers whose size depends on the number of classes."""

_WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.|model\.)+")


@dataclass(frozen=True)
class LoadedDetector:
    """What was loaded into a detector, and what was not."""

    path: Path
    kind: Literal["detector", "backbone"]
    """Whether the file had weights for the whole, or for the backbone alone."""
    loaded: tuple[str, ...]
    """The detector's names of the weights that came from the file."""
    fresh: tuple[str, ...]
    """The detector's names of weights that the file does not have and that start anew."""
    left: tuple[str, ...]
    """The file's names of weights that the detector has no place for."""
    classes: int | None
    """The number of classes of a detector's file."""
    preserved: bool
    """Whether norms were rescaled so that fresh attention leaves the function unchanged."""
    remade: tuple[str, ...] = ()
    """Of `fresh`, the layers' weights that are for another number of classes in the file."""


def load_detector(model: nn.Module, path: str | Path) -> LoadedDetector:
    """Load a file into a detector of `create_detector`.

    A detector's file, ours or torchvision's of the same kind, loads whole. Where it is for
    another number of classes, the layers that depend on it stay as they were, which a warning
    and `remade` tell. A classification network's file, and the authors' detectors' files, load
    into the backbone, whatever `sgekit.load_checkpoint` takes. Attention that the file lacks
    starts so that the function is preserved, where it can.

    Raises InputError where the file can't be read or doesn't fit; the model is then as it was.
    """
    contents = read_weights(path)
    whole = _whole(contents)
    if whole is None:
        return _load_backbone(model, contents)
    return _load_whole(model, contents, whole)


def _whole(contents: Contents) -> dict[str, Tensor] | None:
    """All the weights of a detector of our or torchvision's making, or None for other files."""
    if any(name.startswith("backbone.body.") for name in contents.tensors):
        return dict(contents.tensors)
    ours = contents.kind == "detector" and any(n.startswith("body.") for n in contents.tensors)
    if not ours:
        return None
    # The reader keeps the backbone alone of a detector's file.
    content = read_torch(contents.path)
    state = next(
        (content[k] for k in ("state_dict", "model") if isinstance(content.get(k), Mapping)),
        content,
    )
    return {_WRAPPERS.sub("", name): value.detach() for name, value in state.items()}


def _load_whole(model: Any, contents: Contents, tensors: dict[str, Tensor]) -> LoadedDetector:
    wanted = model.state_dict()
    given = {_ours(name): value for name, value in tensors.items()}
    remade = tuple(
        name
        for name, value in given.items()
        if _CLASSES.search(name) and name in wanted and value.shape != wanted[name].shape
    )
    classes = _count(given, wanted, model.num_classes)
    for name in remade:
        del given[name]
    heads = {name: v for name, v in given.items() if not name.startswith("backbone.")}
    if problems := _misfits(heads, wanted, remade):
        raise InputError(
            f"{contents.path}, which looks like a {_looks(tensors)}, does not fit this "
            f"{model.detector_name}; {problems}"
        )
    backbone: PyramidBackbone = model.backbone
    inner = {n.removeprefix("backbone."): v for n, v in given.items() if n not in heads}
    # The reader of classification checkpoints knows what attention is and how it starts.
    found = load_contents(
        backbone,
        replace(contents, kind="pytorch", tensors=inner, others=()),
        preserve=_preserves(backbone),
    )
    model.load_state_dict(heads, strict=False)
    if remade:
        warnings.warn(
            f"{contents.path} is for {_number(classes)} classes, the detector for "
            f"{model.num_classes}: {', '.join(sorted(remade))} start anew",
            stacklevel=4,
        )
    fresh = tuple(name for name in wanted if name not in given and not _counts(name))
    left = tuple(f"backbone.{name}" for name in found.left)
    return LoadedDetector(
        contents.path,
        "detector",
        tuple(name for name in given if name in wanted),
        fresh,
        left,
        classes,
        found.preserved,
        remade,
    )


def _load_backbone(model: Any, contents: Contents) -> LoadedDetector:
    backbone: PyramidBackbone = model.backbone
    spec = backbone.spec
    if backbone.lost_norms:
        raise InputError(
            f"{contents.path} is of a network with BatchNorm, and the detector's norm is 'group': "
            "its weights mean nothing there; take norm='frozen', 'batch' or 'sync'"
        )
    # The network of features has other names and parts than the one that classifies.
    with torch.random.fork_rng(devices=[]):
        network = build(
            spec.name,
            spec.attention,
            groups=spec.groups,
            num_classes=0,
            in_chans=spec.in_chans,
            preserve=False,
        )
    found = load_contents(network, contents, preserve=_preserves(backbone))
    state = network.state_dict()
    own = backbone.body.state_dict()
    places = {name: _place(name, own) for name in state}
    given = {place: state[name] for name, place in places.items() if place is not None}
    if lost := [name for name in own if name not in given]:
        raise InputError(
            f"{spec.name} with {spec.attention}: the network of features has weights that the one "
            f"that classifies has not ({', '.join(lost[:5])}), so {contents.path} can't be loaded; "
            "take pretrained=True or train from scratch"
        )
    backbone.body.load_state_dict(given)
    loaded = {place for name in found.loaded if (place := places.get(name)) is not None}
    names = {f"backbone.body.{place}" for place in loaded}
    return LoadedDetector(
        contents.path,
        "backbone",
        tuple(name for name in model.state_dict() if name in names),
        tuple(name for name in model.state_dict() if name not in names and not _counts(name)),
        (*found.left, *(name for name in found.loaded if places.get(name) is None)),
        None,
        found.preserved,
    )


def _preserves(backbone: PyramidBackbone) -> bool:
    return parse(backbone.spec.attention).preserves


def _place(name: str, own: Mapping[str, Tensor]) -> str | None:
    """A classification network's weight in timm's network of features, which may be flattened."""
    candidates = (name, name.replace(".", "_", 1), f"body.{name}")
    return next((candidate for candidate in candidates if candidate in own), None)


def _counts(name: str) -> bool:
    return name.endswith(".num_batches_tracked")


def _ours(name: str) -> str:
    """The name that the weight has in torchvision now."""
    for pattern, replacement in _OLDER:
        name = pattern.sub(replacement, name)
    if found := _MASK_HEAD.match(name):
        return f"{found[1]}.{int(found[2]) - 1}.0.{found[3]}"
    # The towers were convolution, ReLU, convolution, ...: every second one has weights.
    if found := _TOWERS.match(name):
        return f"{found[1]}.{int(found[2]) // 2}.0.{found[3]}"
    return name


def _count(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], num_classes: int
) -> int | None:
    """How many classes the file is for."""
    for name, value in given.items():
        if name.endswith((".cls_score.bias", ".cls_logits.bias")) and _CLASSES.search(name):
            mine = wanted.get(name)
            # RetinaNet has a score for every class of every anchor.
            anchors = 1 if mine is None else max(1, mine.shape[0] // (num_classes + 1))
            rows, rest = divmod(value.shape[0], anchors)
            return rows - 1 if rest == 0 else None
    return None


def _number(classes: int | None) -> str:
    return "another number of" if classes is None else str(classes)


def _misfits(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], remade: Collection[str]
) -> str:
    """What of the heads does not fit, in words; empty where all does."""
    missing = [
        name
        for name in wanted
        if not name.startswith("backbone.") and name not in given and name not in remade
    ]
    unexpected = [name for name in given if name not in wanted]
    other = [
        f"{name} {tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
        for name, value in given.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    return "; ".join(
        f"{len(names)} {words}: {', '.join(names[:6])}{', …' if len(names) > 6 else ''}"
        for names, words in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (other, "of another shape"),
        )
        if names
    )


def _looks(names: Collection[str]) -> str:
    """The detector that weights belong to."""
    if any(name.startswith("head.classification_head.") for name in names):
        return "retinanet"
    cascade = any(name.startswith("roi_heads.box_predictor.1.") for name in names)
    masks = any(name.startswith("roi_heads.mask_head.") for name in names)
    if masks:
        return "cascade_mask_rcnn" if cascade else "mask_rcnn"
    return "cascade_rcnn" if cascade else "faster_rcnn"
