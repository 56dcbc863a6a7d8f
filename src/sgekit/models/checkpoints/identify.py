"""From the weights in a file to the network that takes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
from timm.data.imagenet_info import ImageNetInfo

from sgekit.errors import InputError
from sgekit.models.checkpoints.metadata import OWN, Metadata, metadata_from
from sgekit.models.checkpoints.read import KINDS, Contents
from sgekit.models.checkpoints.recognise import Network, model_name, recognise
from sgekit.models.zoo import ARCHITECTURES, PREFIX

IMAGENET = "imagenet-1k"


def network_in(contents: Contents) -> Network | None:
    """The network that the weights look like."""
    return recognise({name: tuple(value.shape) for name, value in contents.tensors.items()})


def identify(
    contents: Contents, *, model: str | None = None, classes: str | Path | None = None
) -> Metadata:
    """What the weights are of: as the file says itself, else as their names and shapes tell.

    `model` is timm's name of the network, for files of networks that are not recognised;
    `classes` a file with a name a line in the order of the logits, or "imagenet-1k" for its
    1,000 synsets. Without it a released classifier has these, and another the numbers from 0.
    Raises InputError where the network is not recognised, or the names are too many or few.
    """
    if contents.identity is not None:
        if model is not None or classes is not None:
            raise InputError(
                f"{contents.path} says itself which network it is of; leave out the model and "
                "the classes"
            )
        known = metadata_from(contents.identity, contents.path)
        training = contents.notes.get("training")
        if contents.kind != "run":
            return known
        return Metadata(**(known.__dict__ | {"recipe": training, "source": KINDS["run"]}))
    network = network_in(contents)
    name = model or (model_name(network) if network else None)
    if name is None:
        looks = f"looks like {network.text}, which" if network else "is of a network that"
        raise InputError(f"{contents.path} {looks} has no name here; name the network with --model")
    if not timm.is_model(name):
        raise InputError(f"no model is named {name!r}; `sgekit models` lists names")
    count = _classes(contents, name)
    base = name.removeprefix(PREFIX)
    ours = name.startswith(PREFIX) and base in ARCHITECTURES
    plain = network is not None and network.attention == "none" and name in ARCHITECTURES
    return Metadata(
        model=base if ours else name,
        attention="sge" if ours else "none" if plain else OWN,
        # Layers of different numbers of groups come from the nearest divisors.
        groups=(network.groups or "auto") if network and network.attention == "sge" else None,
        classes=_names(contents, count, classes),
        source=KINDS[contents.kind],
        **(_feeding(name) if model else {}),
    )


def _feeding(name: str) -> dict[str, Any]:
    """How timm evaluates the network."""
    config = timm.get_pretrained_cfg(name)
    if config is None:
        return {}
    return {
        "image_size": config.input_size[-1],
        "eval_crop": config.crop_pct,
        "interpolation": config.interpolation,
    }


def _classes(contents: Contents, name: str) -> int:
    config = timm.get_pretrained_cfg(name)
    classifier = getattr(config, "classifier", None)
    classifier = classifier or "fc"
    weight = contents.tensors.get(f"{classifier}.weight")
    if weight is None and f"{classifier}.bias" in contents.tensors:
        raise InputError(
            f"{contents.path} has {classifier}.bias and no {classifier}.weight: "
            "a part of its classifier is missing"
        )
    return 0 if weight is None else int(weight.shape[0])


def _names(contents: Contents, count: int, classes: str | Path | None) -> tuple[str, ...]:
    if classes is None and contents.kind == "released" and count == 1000:
        classes = IMAGENET
    if classes is None:
        return tuple(map(str, range(count)))
    if str(classes) == IMAGENET:
        info: Any = ImageNetInfo()
        names = tuple(info.label_names())
    else:
        names = _lines(Path(classes))
    if len(names) != count:
        raise InputError(
            f"{classes} names {len(names)} classes, but {contents.path} is for {count}"
        )
    return names


def _lines(path: Path) -> tuple[str, ...]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise InputError(f"the classes' names in {path} cannot be read: {reason}") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f"{path} names {double!r} twice; each class needs a name of its own")
    return names


def describe(contents: Contents) -> str:
    """In words: the kind of file, the network, its classes, and what stands beside the weights."""
    network = network_in(contents)
    parts = [f"{KINDS[contents.kind]}: {network.text if network else 'no ResNet that is known'}"]
    if network and network.classes:
        parts.append(f"{network.classes} classes")
    elif network:
        parts.append("no classifier")
    shown: Mapping[str, Any] = contents.notes
    parts += [f"{name} {shown[name]:g}" for name in ("epoch", "acc", "best_acc")
              if isinstance(shown.get(name), int | float)]  # fmt: skip
    if contents.others:
        parts.append(f"tensors of other parts: {len(contents.others)}")
    return ", ".join(parts)
