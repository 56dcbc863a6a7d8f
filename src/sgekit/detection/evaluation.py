"""COCO's scores of detections: average precision and recall of boxes and masks.

The numbers are those of pycocotools to the last digit; masks are coded and overlaid by
faster-coco-eval.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sgekit.data.coco_coder import coder
from sgekit.detection.matching import Flags, Floats, Ints, Matches, Regions, match
from sgekit.detection.scores import DetectionScores, Scores, score
from sgekit.errors import InputError

__all__ = ["CocoEvaluation", "DetectionScores", "ImageDetections", "Kind", "Scores", "encode_masks"]

Kind: TypeAlias = Literal["box", "mask"]


@dataclass(frozen=True)
class ImageDetections:
    """What was found in one image: boxes (N, 4) as x, y, w, h in pixels; category ids; scores."""

    boxes: Floats
    categories: Ints
    scores: Floats
    masks: list[dict[str, Any]] | None


class CocoEvaluation:
    """Collects the detections of a data set's images and scores them.

    ``ground_truth`` is a COCO dictionary (images, annotations, categories). Its crowds are objects
    that may be found any number of times and count neither way. ``masks`` evaluates masks beside
    the boxes; a mask's size is then its own number of pixels, not its box's.

    In several processes each updates its own; one merges the others' `state`. An image that comes
    twice counts once, with what came last: samplers repeat images to make the shares equal.
    """

    def __init__(self, ground_truth: Mapping[str, Any], masks: bool) -> None:
        self.masks = masks
        self._found: dict[int, ImageDetections] = {}
        images = {int(image["id"]): image for image in ground_truth["images"]}
        self._images = images
        self._image_ids: Ints = np.array(sorted(images), dtype=np.int64)
        categories = sorted(ground_truth["categories"], key=lambda category: int(category["id"]))
        self._categories: Ints = np.array([int(c["id"]) for c in categories], dtype=np.int64)
        self.classes = tuple(str(category["name"]) for category in categories)
        if len(set(self.classes)) < len(self.classes):
            raise InputError(f"two categories have one name: {', '.join(sorted(self.classes))}")
        annotations = ground_truth["annotations"]
        for name, known in (("image_id", images), ("category_id", set(self._categories.tolist()))):
            for annotation in annotations:
                if annotation[name] not in known:
                    raise InputError(
                        f"annotation {annotation.get('id')} has {name} {annotation[name]}, "
                        "which the ground truth does not list"
                    )
        self._annotations = annotations
        self._crowd = np.array([bool(a.get("iscrowd", 0)) for a in annotations], dtype=bool)

    def update(self, image_ids: Sequence[int], predictions: Sequence[Mapping[str, Tensor]]) -> None:
        """Add predictions as a detector returns them.

        Boxes (N, 4) are x0, y0, x1, y1 in pixels of the image, labels (N,) category ids, scores
        (N,), masks (N, 1, H, W) probabilities or (N, H, W) flags in the image's size.

        Raises `InputError` for images and labels that the ground truth does not have, numbers that
        are not finite, boxes without a corner order, and masks that are missing or of another size.
        """
        if len(image_ids) != len(predictions):
            raise InputError(f"{len(image_ids)} images with {len(predictions)} predictions")
        for image_id, prediction in zip(image_ids, predictions, strict=True):
            corners = prediction["boxes"].detach().cpu().double().numpy().reshape(-1, 4)
            masks = None
            if self.masks:
                if "masks" not in prediction:
                    raise InputError(
                        f"the prediction for image {image_id} has no masks to evaluate"
                    )
                masks = encode_masks(prediction["masks"])
            self._add(
                int(image_id),
                ImageDetections(
                    np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
                    prediction["labels"].detach().cpu().numpy().astype(np.int64),
                    prediction["scores"].detach().cpu().double().numpy(),
                    masks,
                ),
            )

    def load(self, detections: Iterable[Mapping[str, Any]]) -> None:
        """Add a COCO result list, as `detections` gives it.

        All its images are replaced, and images of the ground truth that it does not name are taken
        as seen and empty. Raises `InputError` as `update` does.
        """
        needed = {"image_id", "category_id", "bbox", "score"}
        needed |= {"segmentation"} if self.masks else set()
        images: dict[int, list[Mapping[str, Any]]] = {i: [] for i in self._image_ids.tolist()}
        for detection in detections:
            if missing := needed - set(detection):
                raise InputError(f"a detection has no {', '.join(sorted(missing))}: {detection}")
            images.setdefault(int(detection["image_id"]), []).append(detection)
        for image_id, found in images.items():
            masks = [_as_bytes(d["segmentation"]) for d in found] if self.masks else None
            self._add(
                image_id,
                ImageDetections(
                    np.array([d["bbox"] for d in found], dtype=np.float64).reshape(-1, 4),
                    np.array([d["category_id"] for d in found], dtype=np.int64),
                    np.array([d["score"] for d in found], dtype=np.float64),
                    masks,
                ),
            )

    def detections(self, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """All detections as COCO's result list, which JSON can hold.

        ``category_ids`` are written in place of the ground truth's, in the order of its ids.
        """
        own = self._categories.tolist()
        written = dict(zip(own, own if category_ids is None else category_ids, strict=True))
        listed = []
        for image_id, found in sorted(self._found.items()):
            columns = found.categories.tolist(), found.boxes.tolist(), found.scores.tolist()
            entries: list[dict[str, Any]] = [
                {
                    "image_id": image_id,
                    "category_id": written[category],
                    "bbox": box,
                    "score": value,
                }
                for category, box, value in zip(*columns, strict=True)
            ]
            for entry, coded in zip(entries, found.masks or [], strict=bool(found.masks)):
                entry["segmentation"] = {**coded, "counts": coded["counts"].decode("ascii")}
            listed += entries
        return listed

    def state(self) -> dict[int, ImageDetections]:
        """What has been collected, to be pickled and merged elsewhere."""
        return dict(self._found)

    def merge(self, state: Mapping[int, ImageDetections]) -> None:
        """Add what another evaluation of the same ground truth has collected."""
        for image_id, found in state.items():
            self._add(image_id, found)

    def compute(self, *, partial: bool = False) -> DetectionScores:
        """The scores over all images; with ``partial`` over those updated so far.

        Raises `InputError` where images have had no update, unless ``partial``.
        """
        return DetectionScores(
            score(self.matches("box", partial=partial)),
            score(self.matches("mask", partial=partial)) if self.masks else None,
        )

    def matches(self, kind: Kind, *, partial: bool = False) -> Matches:
        """What `compute` scores, for curves, bootstrap and single images. Raises as it does."""
        if kind == "mask" and not self.masks:
            raise InputError("this evaluation holds no masks; it was made for boxes alone")
        image_ids = self._image_ids
        seen = np.array([number in self._found for number in image_ids.tolist()], dtype=bool)
        if partial:
            image_ids = image_ids[seen]
        elif not seen.all():
            missing = image_ids[~seen]
            raise InputError(
                f"{len(missing)} of {len(seen)} images have had no prediction "
                f"(the first: {missing[0]}); update them too, with empty tensors for nothing found"
            )
        parts = [self._found[number] for number in image_ids.tolist()]
        lengths = [len(part.scores) for part in parts]
        found = Regions(
            image=np.repeat(np.arange(len(parts)), lengths),
            label=np.searchsorted(self._categories, _join([p.categories for p in parts], np.int64)),
            **_shapes(
                [part.boxes for part in parts],
                [part.masks or [] for part in parts] if kind == "mask" else None,
            ),
        )
        objects, crowd = self._objects(image_ids, kind)
        return match(
            image_ids,
            self.classes,
            objects,
            crowd,
            found,
            _join([part.scores for part in parts], np.float64),
        )

    def _objects(self, image_ids: Ints, kind: Kind) -> tuple[Regions, Flags]:
        wanted = set(image_ids.tolist())
        index = [i for i, a in enumerate(self._annotations) if a["image_id"] in wanted]
        chosen = [self._annotations[i] for i in index]
        return (
            Regions(
                image=np.searchsorted(
                    image_ids, np.array([a["image_id"] for a in chosen], np.int64)
                ),
                label=np.searchsorted(
                    self._categories, np.array([a["category_id"] for a in chosen], np.int64)
                ),
                area=np.array([a["area"] for a in chosen], np.float64),
                shape=np.array([a["bbox"] for a in chosen], np.float64).reshape(-1, 4)
                if kind == "box"
                else [self._object_mask(annotation) for annotation in chosen],
            ),
            self._crowd[index],
        )

    def _object_mask(self, annotation: Mapping[str, Any]) -> dict[str, Any]:
        height, width = self._size(annotation["image_id"])
        shape = annotation.get("segmentation")
        if not shape:
            raise InputError(f"annotation {annotation.get('id')} has no segmentation to evaluate")
        if isinstance(shape, list):
            return dict(coder().merge(coder().frPyObjects(shape, height, width)))
        if isinstance(shape["counts"], list):
            return dict(coder().frPyObjects(shape, height, width))
        return _as_bytes(shape)

    def _add(self, image_id: int, found: ImageDetections) -> None:
        if image_id not in self._images:
            raise InputError(f"image {image_id} is not in the ground truth")
        known = np.isin(found.categories, self._categories)
        if not known.all():
            raise InputError(
                f"image {image_id} has label {found.categories[~known][0]}; the ground truth has "
                f"{len(self.classes)} classes, {self._categories.min()} to {self._categories.max()}"
            )
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise InputError(
                f"a box or score in image {image_id} is not finite: the detector has diverged"
            )
        if (found.boxes[:, 2:] < 0).any():
            raise InputError(
                f"a box in image {image_id} ends before it begins (x1 < x0 or y1 < y0)"
            )
        for coded in found.masks or []:
            if tuple(coded["size"]) != self._size(image_id):
                raise InputError(
                    f"a mask of {tuple(coded['size'])} pixels in image {image_id}, "
                    f"which has {self._size(image_id)} (height, width)"
                )
        self._found[image_id] = found

    def _size(self, image_id: int) -> tuple[int, int]:
        image = self._images[image_id]
        return int(image["height"]), int(image["width"])


def encode_masks(masks: Tensor) -> list[dict[str, Any]]:
    """Masks (N, 1, H, W) or (N, H, W), set where above 0.5, as COCO's run lengths."""
    flags = masks.detach().flatten(0, -3) > 0.5
    return list(coder().encode(np.asfortranarray(flags.permute(1, 2, 0).byte().cpu().numpy())))


def _shapes(boxes: list[Floats], masks: list[list[dict[str, Any]]] | None) -> dict[str, Any]:
    if masks is not None:
        coded = [one for part in masks for one in part]
        area = np.asarray(coder().area(coded), np.float64) if coded else np.zeros(0)
        return {"shape": coded, "area": area}
    joined = np.concatenate([np.zeros((0, 4)), *boxes])
    return {"shape": joined, "area": joined[:, 2] * joined[:, 3]}


def _join(parts: list[Any], dtype: type) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *parts])


def _as_bytes(coded: Mapping[str, Any]) -> dict[str, Any]:
    counts = coded["counts"]
    return {
        "size": [int(side) for side in coded["size"]],
        "counts": counts.encode("ascii") if isinstance(counts, str) else counts,
    }
