"""`sgekit.explain`: figures of a network's groups on a few images, for a notebook."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from sgekit.data.decode import decode, to_rgb
from sgekit.errors import InputError
from sgekit.explanation import figures
from sgekit.explanation.look import look
from sgekit.explanation.report import drawn_groups
from sgekit.explanation.subject import Classifier, Detector, Item, Subject, as_picture

Picture = Image.Image | str | Path


def explain(
    model: nn.Module,
    images: Tensor | Picture | Sequence[Picture],
    *,
    layer: str | None = None,
    groups: Sequence[int] = (),
    top: int = 4,
    group_count: int | Literal["auto"] = "auto",
) -> dict[str, Figure]:
    """Figures of what the groups of ``model`` look at on ``images``.

    images: pictures or their files, prepared as timm says of the model (224 pixels and ImageNet's
    normalisation where it says nothing); or a tensor (B, 3, H, W) as the model takes it, which is
    shown stretched to its range. A detector of `create_detector` takes pictures alone.
    layer: a name as in ``named_modules``, None for the layer with the most selective groups.
    groups: the groups that are drawn, none for the ``top`` most selective. A network without
    attention is shown with the similarity that SGE would compute at the places for it, in
    ``group_count`` groups of channels ("auto": as SGE does).

    Returns "image-1" and so on, "layers", "histogram" and "variance" (matplotlib figures, which a
    notebook shows and ``savefig`` writes as PNG or SVG). The network, its mode and the random
    state are left as they are. Raises `InputError` for a layer or group that there is not (with
    those that there are), an image that cannot be read, and a network without places for attention.
    """
    if top < 1:
        raise InputError(f"top = {top} groups cannot be drawn: ask for at least 1")
    device = next((str(p.device) for p in model.parameters()), "cpu")
    if isinstance(getattr(model, "transform", None), GeneralizedRCNNTransform):
        if isinstance(images, Tensor):
            raise InputError("a detector takes pictures or files here, not a tensor")
        subject: Subject = Detector(model, device, groups=group_count, layers=_one(layer))
    elif isinstance(images, Tensor):
        if images.dim() != 4 or len(images) == 0:
            raise InputError(f"images (B, 3, H, W) are needed, not {tuple(images.shape)}")
        if not images.is_floating_point() or not bool(images.isfinite().all()):
            raise InputError("images are floats as the model takes them, without NaN and infinity")
        subject = Classifier(model, device, groups=group_count, layers=_one(layer))
    else:
        subject = Classifier(model, device, groups=group_count, layers=_one(layer))
    given = images if isinstance(images, Tensor) else _listed(images)
    if len(given) == 0:
        raise InputError("there are no images to look at")

    def item(number: int) -> Item:
        image, name = given[number], f"image {number + 1}"
        if isinstance(image, Tensor):
            return Item(image.detach(), as_picture(image.detach()), None, None, name)
        if isinstance(image, Image.Image):
            return subject.item(to_rgb(image), {}, (), None, name)
        return subject.item(decode(image, str(image)), {}, (), None, str(image))

    seen = look(subject, len(given), item, show=range(len(given)), batch_size=16, maps=())
    surveys = seen.surveys
    layer, groups = drawn_groups(surveys, layer, groups, top)
    drawn = {
        f"image-{number}": figures.overlays(shown, layer, groups, surveys[layer].kind)
        for number, shown in enumerate(seen.shown, 1)
    }
    drawn["layers"] = figures.through_layers(surveys)
    drawn["histogram"] = figures.histogram(surveys)
    drawn["variance"] = figures.variance(surveys)
    return drawn


def _one(layer: str | None) -> list[str] | None:
    return None if layer is None else [layer]


def _listed(images: object) -> list[Picture]:
    if isinstance(images, Image.Image | str | Path):
        return [images]
    if isinstance(images, Sequence) and all(
        isinstance(i, Image.Image | str | Path) for i in images
    ):
        return list(images)
    raise InputError(f"images are pictures, files or a tensor (B, 3, H, W), not {type(images)}")
