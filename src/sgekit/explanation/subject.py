"""A network that is looked into: how pictures get into it, and which of its layers are watched."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.config import resolve_model_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor, nn
from torchvision.transforms.functional import to_pil_image

from sgekit.analysis.capture import GateRecord, capture, evaluating, watched
from sgekit.detection.gates import detector_records
from sgekit.errors import InputError
from sgekit.models import fuse, insert
from sgekit.models.zoo import default_groups
from sgekit.modules import DEFAULT_GROUPS, NoAttention
from sgekit.training.checkpoint import DetectorIdentity, Identity
from sgekit.training.detection_loaders import to_tensor
from sgekit.training.loaders import eval_transform, to_picture

Masks = Mapping[str, NDArray[np.bool_]]
Groups = int | Literal["auto"]
# From so many images on, what folding BatchNorm saves is more than what it takes.
_MANY = 200


@dataclass(frozen=True)
class Item:
    """One image on its way: what the network takes, what it sees, where its regions are.

    inputs (3, H, W); masks (R, H, W) uint8 in the order of the regions asked for, as large as
    what the network sees, or None.
    """

    inputs: Tensor
    picture: Image.Image
    masks: Tensor | None
    label: int | None
    source: str


@dataclass(frozen=True)
class Looked:
    """Some items, the records of their maps, and the logits of a classifier."""

    items: Sequence[Item]
    records: dict[str, GateRecord]
    logits: Tensor | None


class Subject(Protocol):
    """A classifier or a detector."""

    network: nn.Module
    classes: tuple[str, ...]
    layers: list[str]

    def item(
        self, image: Image.Image, masks: Masks, regions: Sequence[str], label: int | None, name: str
    ) -> Item:
        """Prepare one picture with its regions."""
        ...

    def look(self, items: Sequence[Item]) -> Iterator[Looked]:
        """Run the network on prepared pictures, recording the watched layers."""
        ...


class Classifier:
    """Any classifier; batches of one size. ``network`` is used as it is, or a copy of it.

    Without attention layers, places for them are marked in a copy. ``layers`` restricts what is
    watched. Raises `InputError` for a layer that there is not, and for a network without places.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str,
        *,
        who: Identity | None = None,
        layers: Sequence[str] | None = None,
        groups: Groups = "auto",
    ) -> None:
        # Compiled networks are looked at as they are inside.
        network = getattr(network, "_orig_mod", network)
        self.network = self._runs = marked(network).to(device)
        self.device, self.groups = device, groups
        self.classes = who.classes if who else ()
        self.layers = chosen(self.network, layers)
        self._who = who
        if who is not None:
            size, crop, interpolation = who.image_size, who.eval_crop, who.interpolation
        else:
            config: dict[str, Any] = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
            size, crop = int(config["input_size"][-1]), float(config["crop_pct"])
            interpolation = str(config["interpolation"])
        self._size = size
        self._transform = eval_transform(size, crop, interpolation)
        self._mask = create_transform(
            size, is_training=False, crop_pct=crop, interpolation="nearest", use_prefetcher=True
        )

    def item(
        self, image: Image.Image, masks: Masks, regions: Sequence[str], label: int | None, name: str
    ) -> Item:
        inputs = self._transform(image)
        stack = None
        if regions:
            stack = torch.zeros(len(regions), *inputs.shape[1:], dtype=torch.uint8)
            for number, region in enumerate(regions):
                if region in masks:
                    seen = self._mask(Image.fromarray(masks[region]))
                    stack[number] = torch.as_tensor(np.asarray(seen)).reshape(inputs.shape[1:]) > 0
        return Item(inputs, to_picture(inputs), stack, label, name)

    def expect(self, images: int) -> None:
        """Make ready for so many: many are run through a copy with BatchNorm folded.

        It computes the same but for rounding, in less time. ``network`` stays as it is; what is
        changed in it later is not in the copy.
        """
        if images >= _MANY and self._runs is self.network:
            try:
                with evaluating(self.network):
                    own = torch.Generator().manual_seed(0)
                    shape = (1, 3, self._size, self._size)
                    self._runs = fuse(self.network, torch.rand(shape, generator=own))
            except InputError:  # a network that cannot be traced runs as it is
                return

    def look(self, items: Sequence[Item]) -> Iterator[Looked]:
        records, logits = self.run(torch.stack([item.inputs for item in items]))
        yield Looked(items, records, logits)

    def run(self, inputs: Tensor) -> tuple[dict[str, GateRecord], Tensor | None]:
        """The records and logits, if there are any, of inputs (B, 3, H, W).

        Raises `InputError` where the network doesn't take them.
        """
        parameter = next(self.network.parameters(), inputs)
        try:
            with looking(self._runs, self.layers, self.groups) as records:
                logits = self._runs(inputs.to(self.device, parameter.dtype))
        except RuntimeError as problem:
            raise InputError(
                f"the network doesn't take images of shape {tuple(inputs.shape)}: "
                f"{str(problem).splitlines()[0]}"
            ) from problem
        scores = isinstance(logits, Tensor) and logits.dim() == 2
        return maps_of(records), logits.float() if scores else None


class Detector:
    """A detector of ours; pictures of any size, one at a time, through the backbone alone.

    As `Classifier` otherwise.
    """

    def __init__(
        self,
        network: nn.Module,
        device: str,
        *,
        classes: tuple[str, ...] = (),
        layers: Sequence[str] | None = None,
        groups: Groups = "auto",
    ) -> None:
        self.network = marked(network, "backbone.body").to(device)
        self.device, self.groups, self.classes = device, groups, classes
        self.layers = chosen(self.network, layers)

    def item(
        self, image: Image.Image, masks: Masks, regions: Sequence[str], label: int | None, name: str
    ) -> Item:
        inputs = to_tensor(image)
        stack = None
        if regions:
            stack = torch.zeros(len(regions), *inputs.shape[1:], dtype=torch.uint8)
            for number, region in enumerate(regions):
                if region in masks:
                    stack[number] = torch.from_numpy(masks[region].astype(np.uint8))
        return Item(inputs, image.convert("RGB"), stack, label, name)

    def look(self, items: Sequence[Item]) -> Iterator[Looked]:
        for item in items:
            with evaluating(self.network), torch.inference_mode():
                records = detector_records(
                    self.network, item.inputs.to(self.device), self.layers, self.groups
                )
            yield Looked([item], records, None)


def marked(network: nn.Module, inside: str = "") -> nn.Module:
    """The network itself where it has attention layers; else a copy with their places marked.

    ``inside`` names the module that has the places. Raises `InputError` where it has none.
    """
    if watched(network, "all"):
        return network
    try:
        twin = copy.deepcopy(network)
        insert(twin.get_submodule(inside), _place, preserve=False)
    except InputError as problem:
        raise InputError(
            f"this network has no attention layers and no place for any: {problem}"
        ) from None
    return twin


def groups_of(who: Identity | DetectorIdentity) -> Groups:
    """As many groups as SGE has in this network or would have: those that were asked for, or its
    default."""
    if who.groups is not None:
        return who.groups  # type: ignore[return-value]
    groups = default_groups(who.model)
    return "auto" if groups == DEFAULT_GROUPS else groups


def _place(channels: int, **options: Any) -> nn.Module:
    # Not the class: `insert` knows it and leaves the network without it.
    return NoAttention(channels, **options)


def chosen(network: nn.Module, layers: Sequence[str] | None) -> list[str]:
    """The watched layers' names. Raises InputError for one that there is not, listing all."""
    known = list(watched(network, "all"))
    for name in layers or ():
        if name not in known:
            raise InputError(f"there is no attention layer {name!r}; there are {', '.join(known)}")
    return list(layers) if layers else known


@contextmanager
def looking(
    network: nn.Module, layers: Sequence[str], groups: Groups
) -> Iterator[dict[str, GateRecord]]:
    """In eval mode and without gradients; the modes are restored."""
    with (
        evaluating(network),
        torch.inference_mode(),
        capture(network, layers, attention="all", groups=groups) as records,
    ):
        yield records


def maps_of(records: dict[str, GateRecord]) -> dict[str, GateRecord]:
    """Those with rows and columns."""
    return {name: record for name, record in records.items() if record.gate.dim() == 4}


def as_picture(inputs: Tensor) -> Image.Image:
    """A (3, H, W) tensor of unknown normalisation as a picture, from its lowest to its highest."""
    low, high = inputs.amin(), inputs.amax()
    stretched = (inputs - low) / (high - low).clamp_min(1e-12)
    picture: Image.Image = to_pil_image(stretched.cpu().float())
    return picture
