"""torchvision's preparation of pictures, for thin ones too."""

from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.models.detection.transform import GeneralizedRCNNTransform, resize_boxes


class PictureTransform(GeneralizedRCNNTransform):  # type: ignore[misc]
    """Where scaling would leave less than a pixel of the shorter side, that is stretched before."""

    def resize(
        self, image: Tensor, target: dict[str, Tensor] | None = None
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        height, width = image.shape[-2:]
        least = -(-max(height, width) // self.max_size)
        if min(height, width) < least:
            size = (max(height, least), max(width, least))
            image = interpolate(image[None], size=size)[0]
            if target is not None:
                boxes = resize_boxes(target["boxes"], [height, width], list(size))
                target = {**target, "boxes": boxes}
                if "masks" in target:
                    target["masks"] = interpolate(target["masks"][None].float(), size=size)[
                        0
                    ].byte()
        resized: tuple[Tensor, dict[str, Tensor] | None] = super().resize(image, target)
        return resized
