"""What a file of sgekit says of the weights in it, and the network built again from that."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from sgekit import __version__
from sgekit.errors import InputError
from sgekit.models.build import build

OWN = "own"
"""As `attention`: what the model's name says, where `build` does not put it in."""

FORMAT = 1


@dataclass(frozen=True)
class Metadata:
    """Enough to build the network again and to feed it."""

    model: str
    attention: str
    groups: int | str | None
    classes: tuple[str, ...]
    """Names, in the order of the logits; () for a network without classifier."""
    image_size: int = 224
    """Pixels a side of the images that it is evaluated on."""
    eval_crop: float = 0.875
    """Their share of the resized picture's side."""
    interpolation: str = "bilinear"
    recipe: dict[str, Any] | None = None
    """How it was trained, where sgekit did."""
    source: str | None = None
    """What kind of file the weights came from."""

    def plain(self) -> dict[str, Any]:
        """As JSON can hold it, with the versions of what writes it."""
        versions = {"sgekit": __version__, "torch": torch.__version__, "timm": timm.__version__}
        head = {"format": FORMAT, "versions": versions}
        return head | asdict(self) | {"classes": list(self.classes)}


def metadata_from(plain: dict[str, Any], path: str | Path) -> Metadata:
    """The metadata in a file. Raises InputError where another version wrote it."""
    known = {field.name for field in fields(Metadata)}
    try:
        if plain.get("format", FORMAT) != FORMAT:
            raise TypeError(f"format {plain['format']}")
        given = {name: value for name, value in plain.items() if name in known}
        return Metadata(**(given | {"classes": tuple(plain["classes"])}))
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} was written by another version of sgekit: {error}") from error


def rebuild(metadata: Metadata) -> nn.Module:
    """The network that the metadata tells of, with fresh weights."""
    classes = len(metadata.classes)
    if metadata.attention != OWN:
        return build(
            metadata.model,
            metadata.attention,
            groups=metadata.groups,  # type: ignore[arg-type]
            num_classes=classes,
        )
    if not timm.is_model(metadata.model):
        raise InputError(f"no model is named {metadata.model!r}; `sgekit models` lists names")
    model: nn.Module = timm.create_model(metadata.model, num_classes=classes)
    return model
