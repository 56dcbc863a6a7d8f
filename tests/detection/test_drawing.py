import numpy as np
import pytest
import torch
from PIL import Image, ImageColor
from torch import Tensor

from sgekit.data.detection import Target
from sgekit.detection.drawing import (
    COLOURS,
    SMALLEST,
    best_and_worst,
    draw_detections,
    image_scores,
    sheet,
)
from sgekit.detection.evaluation import CocoEvaluation
from sgekit.errors import InputError

CLASSES = ("cup", "plate")


def grey(width: int = 600, height: int = 400) -> Image.Image:
    return Image.new("RGB", (width, height), (128, 128, 128))


def prediction(masks: bool = False) -> dict[str, Tensor]:
    found = {
        "boxes": torch.tensor([[100.0, 100, 200, 200], [300, 150, 500, 350]]),
        "labels": torch.tensor([1, 2]),
        "scores": torch.tensor([0.9, 0.4]),
    }
    if masks:
        drawn = torch.zeros(2, 1, 400, 600)
        drawn[0, 0, 120:180, 120:180] = 0.7
        drawn[0, 0, 180:200, 100:200] = 0.3
        found["masks"] = drawn
    return found


def colours(picture: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(picture).reshape(-1, 3).tolist()}


def test_boxes_above_the_threshold_are_drawn_in_the_colour_of_their_class() -> None:
    first, second = (ImageColor.getrgb(colour) for colour in COLOURS[:2])
    image = grey()
    high = draw_detections(image, prediction(), CLASSES)
    assert high.size == image.size
    assert first in colours(high)
    assert second not in colours(high)
    assert second in colours(draw_detections(image, prediction(), CLASSES, threshold=0.4))
    # The middle of each side, and nothing inside.
    for x, y in ((102, 150), (198, 150), (150, 102), (150, 198)):
        assert first in colours(high.crop((x - 3, y - 3, x + 3, y + 3)))
    assert colours(high.crop((120, 130, 180, 180))) == {(128, 128, 128)}
    assert colours(image) == {(128, 128, 128)}


def test_masks_are_shaded_where_they_are_likely() -> None:
    drawn = draw_detections(grey(), prediction(masks=True), CLASSES)
    assert drawn.getpixel((150, 150)) != (128, 128, 128)
    assert drawn.getpixel((150, 190)) == (128, 128, 128)
    assert drawn.getpixel((400, 250)) == (128, 128, 128)


def target(masks: bool = True) -> Target:
    flags = np.zeros((2, 40, 60), dtype=np.uint8)
    flags[0, 12:18, 12:18] = 1
    return Target(
        boxes=np.array([[10, 10, 20, 20], [30, 15, 50, 35]], dtype=np.float32),
        labels=np.array([1, 2]),
        area=np.array([100, 400], dtype=np.float32),
        crowd=np.array([False, True]),
        masks=flags if masks else None,
        image_id=1,
    )


def test_an_annotation_is_drawn_whole_and_small_pictures_are_enlarged() -> None:
    drawn = draw_detections(grey(60, 40), target(), CLASSES, threshold=1.0)
    assert drawn.size == (SMALLEST, SMALLEST * 40 // 60)
    assert {ImageColor.getrgb(colour) for colour in COLOURS[:2]} <= colours(drawn)
    assert drawn.getpixel((15 * 8, 15 * 8)) != (128, 128, 128)
    plain = draw_detections(grey(60, 40), target(masks=False), CLASSES)
    assert plain.getpixel((15 * 8, 15 * 8)) == (128, 128, 128)


def test_labels_stay_in_the_picture_and_apart() -> None:
    many = {
        "boxes": torch.tensor([[-20.0, -30, 40, 60], [0, 0, 40, 60], [590, 390, 700, 500]]),
        "labels": torch.tensor([1, 2, 1]),
        "scores": torch.tensor([0.9, 0.8, 0.7]),
    }
    drawn = draw_detections(grey(), many, CLASSES)
    first, second = (np.array(ImageColor.getrgb(colour)) for colour in COLOURS[:2])
    pixels = np.asarray(drawn).astype(int)
    areas = [(np.abs(pixels - colour).max(2) == 0).sum() for colour in (first, second)]
    # A label's ground is about 70 by 18 pixels; the lines are thin.
    assert min(areas) > 700


def test_nothing_to_draw() -> None:
    nothing = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "scores": torch.zeros(0),
        "masks": torch.zeros(0, 1, 400, 600),
    }
    assert colours(draw_detections(grey(), nothing, CLASSES)) == {(128, 128, 128)}
    assert draw_detections(Image.new("L", (600, 400)), nothing, CLASSES).mode == "RGB"


def test_bad_drawings() -> None:
    with pytest.raises(InputError, match="label 2 has no name among 1 classes"):
        draw_detections(grey(), prediction(), CLASSES[:1], threshold=0.0)
    with pytest.raises(
        InputError, match=r"mask of \(400, 600\) pixels on an image of \(300, 600\)"
    ):
        draw_detections(grey(600, 300), prediction(masks=True), CLASSES)
    with pytest.raises(InputError, match="threshold 50"):
        draw_detections(grey(), prediction(), CLASSES, threshold=50)
    with pytest.raises(InputError, match="at least one pair"):
        sheet([])


def test_a_sheet_sets_pairs_beside_each_other() -> None:
    red, blue = Image.new("RGB", (300, 200), "red"), Image.new("RGB", (100, 200), "blue")
    page = sheet([(red, blue, "first"), (blue, red, "second")], width=120)
    pixels, numbers = np.unique(np.asarray(page).reshape(-1, 3), axis=0, return_counts=True)
    counts = {tuple(p): n for p, n in zip(pixels.tolist(), numbers.tolist(), strict=True)}
    # 120 wide: red is 80 high, blue 240, and each stands there twice.
    assert counts[255, 0, 0] == 2 * 120 * 80
    assert counts[0, 0, 255] == 2 * 120 * 240
    assert page.width > 240


def test_images_by_how_well_they_were_solved() -> None:
    box = [10, 10, 50, 50]
    truth = {
        "images": [{"id": i, "height": 100, "width": 100} for i in range(4)],
        "annotations": [
            {"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "area": 2500}
            for i in range(2)
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    hit, weak = torch.tensor([[10.0, 10, 60, 60]]), torch.tensor([[70.0, 70, 90, 90]])
    found = {
        # Found, with a false alarm; missed; nothing there; a false alarm that is not shown.
        0: (torch.cat([hit, weak]), [0.9, 0.8]),
        1: (weak, [0.2]),
        2: (torch.zeros(0, 4), []),
        3: (weak, [0.2]),
    }
    evaluation = CocoEvaluation(truth, masks=False)
    evaluation.update(
        list(found),
        [
            {
                "boxes": boxes,
                "labels": torch.ones(len(boxes), dtype=torch.int64),
                "scores": torch.tensor(scores),
            }
            for boxes, scores in found.values()
        ],
    )
    solved = image_scores(evaluation.matches("box"))
    assert solved.tolist() == [pytest.approx(2 / 3), 0.0, 1.0, 1.0]
    assert image_scores(evaluation.matches("box"), threshold=0.1).tolist()[3] == 0.0
    assert best_and_worst(solved, 2) == ([2, 3], [1, 0])
    assert best_and_worst(solved[:3], 5) == ([2, 0], [1])
