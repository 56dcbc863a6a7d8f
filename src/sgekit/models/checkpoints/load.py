"""Weights from a file into a network: all of them, or an error that says which do not fit."""

import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sgekit.errors import InputError
from sgekit.models.checkpoints.keys import renamed
from sgekit.models.checkpoints.preserve import absent_attention, neutralize
from sgekit.models.checkpoints.read import KINDS, Contents, Kind, read_weights
from sgekit.models.checkpoints.recognise import recognise
from sgekit.models.insertion.host import LAYER

Head = Literal["load", "keep"]


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and what was not."""

    kind: Kind
    """What kind of file it was, in words in `sgekit.models.checkpoints.read.KINDS`."""
    network: str
    """What the weights look like, such as "SGE-ResNet-50"."""
    loaded: tuple[str, ...]
    """The model's names of the weights that came from the file."""
    left: tuple[str, ...]
    """The file's names of weights that the model has no place for: a classifier or detector."""
    fresh: tuple[str, ...]
    """The model's names of weights that the file does not have and that stayed as they were."""
    preserved: bool = False
    """Whether norms were rescaled so that the fresh attention leaves the function unchanged."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Numbers and words beside the weights, such as epoch and best_acc."""


def load_checkpoint(
    model: nn.Module, path: str | Path, *, preserve: bool = True, head: Head = "load"
) -> Loaded:
    """Load the weights in a file into `model`, whose device and types they take.

    Takes checkpoints of `sgekit train`, safetensors, torchvision's and timm's weights, the
    `.pth.tar` files of arXiv 1905.09646's authors, and the backbone in their detectors'
    files. All must fit: InputError lists what is missing, unexpected or of another shape,
    and says which network the file looks like; then `model` is as it was. Raises InputError
    also for a file that is missing, damaged, no checkpoint, or that wants to run code.

    Weights of a plain network go into one with attention. With `preserve` the attention is
    then set to multiply by a constant and the norm before it is divided by that, so that the
    network computes what the plain one does; without it the attention is left as it is.
    `head="keep"` leaves the file's classifier out and the model's own as it is. A model
    without classifier (`num_classes=0` or `features_only`) takes what it has a place for.
    """
    return load_contents(model, read_weights(path), preserve=preserve, head=head)


def load_contents(
    model: nn.Module, contents: Contents, *, preserve: bool = True, head: Head = "load"
) -> Loaded:
    """`load_checkpoint` with the file read already."""
    if head not in ("load", "keep"):
        raise InputError(f"head must be 'load' or 'keep', not {head!r}")
    wanted = model.state_dict()
    if any(value.is_meta for value in wanted.values()):
        raise InputError(
            "the model is on the meta device, which holds no weights; call "
            "model.to_empty(device='cpu') first"
        )
    shapes = {name: tuple(value.shape) for name, value in contents.tensors.items()}
    network = recognise(shapes)
    given = renamed(contents.tensors, wanted)
    left = _leave_out(given, wanted, model, head)
    if head == "load":
        _check_classifier(given, wanted, model, contents)
    fresh = {name for name in wanted if name not in given and _may_stay(name, model, head)}
    plain = network is None or network.attention == "none"
    sites = absent_attention(model, given) if plain else []
    fresh |= {name for site in sites for name in site.weights}
    _check(given, wanted, fresh, model, contents)
    if broken := [name for name, value in given.items() if not value.isfinite().all()]:
        warnings.warn(
            f"{contents.path} holds NaN or infinite numbers in {len(broken)} of {len(given)} "
            f"weights: {', '.join(broken[:10])}{', …' if len(broken) > 10 else ''}",
            stacklevel=3,
        )
    factors = neutralize(model, sites) if preserve else []
    # The layers' own values stay as they now are; the file has none of them.
    kept = {name: value for name, value in model.state_dict().items() if name not in given}
    model.load_state_dict({**kept, **given})
    with torch.no_grad():
        for tensor, factor in factors:
            tensor.div_(factor)
    return Loaded(
        contents.kind,
        network.text if network else "no ResNet of timm's or the released names",
        tuple(given),
        (*left, *contents.others),
        tuple(sorted(fresh)),
        bool(factors),
        contents.notes,
    )


def classes_in(contents: Contents, model: nn.Module) -> int | None:
    """How many classes the file's classifier has, by the name that the model's has; or None."""
    weight = contents.tensors.get(f"{_classifier(model)}weight")
    return None if weight is None else int(weight.shape[0])


def _classifier(model: nn.Module) -> str:
    """The first part of the classifier's names, with its dot."""
    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("classifier") if isinstance(config, Mapping) else None
    return f"{name}." if isinstance(name, str) else "fc."


def _leave_out(
    given: dict[str, Tensor], wanted: Mapping[str, Tensor], model: nn.Module, head: Head
) -> list[str]:
    """Take out of `given`, and name, what the model need not have a place for."""
    classifier = _classifier(model)
    headless = not any(name.startswith(classifier) for name in wanted)
    parts = {name.partition(".")[0] for name in wanted}
    left = []
    for name in list(given):
        of_head = name.startswith((classifier, "fc."))
        # A network of features may end before the last stage.
        stage = re.match(r"(?:layer|bam)(\d)\.", name)
        of_stage = stage is not None and f"layer{stage[1]}" not in parts
        counter = name.endswith(".num_batches_tracked") and name not in wanted
        if (of_head and (headless or head == "keep")) or (of_stage and headless) or counter:
            del given[name]
            left.append(name)
    return left


def _may_stay(name: str, model: nn.Module, head: Head) -> bool:
    """Whether a weight may be absent from the file."""
    kept = head == "keep" and name.startswith(_classifier(model))
    # Files older than PyTorch 0.4.1 do not count batches.
    return kept or name.endswith(".num_batches_tracked")


def _check_classifier(
    given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], model: nn.Module, contents: Contents
) -> None:
    name = f"{_classifier(model)}weight"
    if name not in wanted:
        return
    classes = wanted[name].shape[0]
    if name not in given and contents.kind == "detector":
        raise InputError(
            f"{contents.path} holds a detector's backbone and no classifier, the model has one "
            f"of {classes} classes: build the model with num_classes=0 or features_only, or pass "
            "head='keep' to keep its own classifier"
        )
    if name in given and given[name].shape[0] != classes:
        if given[name].shape[1:] != wanted[name].shape[1:]:
            return
        raise InputError(
            f"{contents.path} is for {given[name].shape[0]} classes, the model for {classes}: "
            f"build the model with num_classes={given[name].shape[0]}, or pass head='keep' to "
            "keep the model's own classifier"
        )


def _check(
    given: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    fresh: set[str],
    model: nn.Module,
    contents: Contents,
) -> None:
    missing = [f"{n} {_size(wanted[n])}" for n in wanted if n not in given and n not in fresh]
    unexpected = [f"{name} {_size(given[name])}" for name in given if name not in wanted]
    other = [
        f"{name} {_size(given[name])} instead of {_size(wanted[name])}"
        for name in given
        if name in wanted and given[name].shape != wanted[name].shape
    ]
    whole = [
        f"{name} {given[name].dtype} for {wanted[name].dtype}"
        for name in given
        if name in wanted
        and wanted[name].is_floating_point()
        and not given[name].is_floating_point()
    ]
    problems = [
        f"{len(names)} {words}: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
        for names, words in (
            (missing, "missing"),
            (unexpected, "unexpected"),
            (other, "of another shape"),
            (whole, "of whole numbers"),
        )
        if names
    ]
    if problems:
        inserted = {name.partition(f".{LAYER}.")[0] for name in given if f".{LAYER}." in name}
        hint = (
            f". The file has attention that was inserted behind {len(inserted)} modules: call "
            "sgekit.insert on the model first"
            if inserted and not any(f".{LAYER}." in name for name in wanted)
            else ""
        )
        raise InputError(
            f"{contents.path} does not fit the model; {'; '.join(problems)}. "
            f"The file, {KINDS[contents.kind]}, {_looks(contents.tensors)}; "
            f"the model {_looks(wanted)}{hint}"
        )


def _size(tensor: Tensor) -> str:
    return f"({'×'.join(map(str, tensor.shape))})"


def _looks(tensors: Mapping[str, Tensor]) -> str:
    found = recognise({name: tuple(value.shape) for name, value in tensors.items()})
    if found is None:
        names: Iterable[str] = list(tensors)[:2]
        return f"is no ResNet that is known (it begins with {', '.join(names)})"
    classes = f"{found.classes} classes" if found.classes else "no classifier"
    return f"looks like {found.text} with {classes}"
