"""The page as a file: its maps come back as they were, and no text in it becomes markup."""

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sgekit.errors import InputError
from sgekit.explanation.page import (
    GroupEntry,
    Page,
    RegionScore,
    Table,
    Tiles,
    tiles,
    write_page,
)
from tests.explanation.pages import HOSTILE, drawing, smallest


def read(found: Tiles, height: int) -> NDArray[np.float64]:
    """The maps (G, height, w) as the page's script reads them."""
    png = base64.b64decode(found.uri.removeprefix("data:image/png;base64,"))
    with Image.open(io.BytesIO(png)) as picture:
        assert picture.mode == "L"
        steps = np.asarray(picture, np.float64).reshape(len(found.low), height, -1)
    low, high = (np.array(ends).reshape(-1, 1, 1) for ends in (found.low, found.high))
    return np.asarray(low + (high - low) * steps / 255)


def stored(html: str) -> dict[str, Any]:
    """The page's data; fails where it is not JSON that stands alone."""
    found = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0], parse_constant=lambda name: pytest.fail(name))
    return data


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 4), (64, 7, 7)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e38])
def test_maps_come_back(shape: tuple[int, int, int], scale: float) -> None:
    maps = (scale * np.random.default_rng(0).uniform(-3, 3, shape)).astype(np.float32)
    found = tiles(maps)
    half = (np.array(found.high) - np.array(found.low)).reshape(-1, 1, 1) / 510
    assert (np.abs(read(found, shape[1]) - maps) <= half * (1 + 1e-9)).all()
    assert found.low == tuple(float(one.min()) for one in maps)
    assert found.high == tuple(float(one.max()) for one in maps)


def test_constant_maps_are_exact() -> None:
    maps = np.stack([np.full((3, 4), value, np.float32) for value in (0.0, 0.3, -1e30)])
    assert (read(tiles(maps), 3) == maps).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_maps_that_are_not_finite_are_refused(value: float) -> None:
    maps = np.zeros((4, 2, 2), np.float32)
    maps[2, 1, 0] = value
    with pytest.raises(InputError, match=r"1 of 4 maps .* map 2"):
        tiles(maps)


@pytest.mark.parametrize("shape", [(2, 2), (0, 2, 2), (2, 0, 2)])
def test_maps_of_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="groups, height, width"):
        tiles(np.zeros(shape, np.float32))


def test_texts_stay_texts(tmp_path: Path) -> None:
    score = RegionScore(0.5, 0.4, 0.6, 0.1, 0.9, True)
    page = smallest(HOSTILE)
    group = GroupEntry(0, 0.0, {HOSTILE: score})
    page = replace(
        page,
        summary=(HOSTILE,),
        limit=HOSTILE,
        layers=(replace(page.layers[0], groups=(group,)),),
        regions=(HOSTILE,),
        tables=(Table(HOSTILE, (HOSTILE,), ((HOSTILE,),), HOSTILE),),
        figures=(drawing(HOSTILE),),
        details=((HOSTILE, HOSTILE),),
    )
    html = write_page(page, tmp_path / "report.html").read_text()
    assert "<img src=x" not in html
    assert html.count("</script>") == 3  # the data, one layer's maps of one image, the script
    data = stored(html)
    assert data["images"][0]["title"] == data["layers"][0]["name"] == data["regions"][0] == HOSTILE
    assert list(data["layers"][0]["groups"][0]["regions"]) == [HOSTILE]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    html = write_page(smallest("caf\udce9.jpg"), tmp_path / "report.html").read_text()
    assert "<h1>caf?.jpg</h1>" in html
    assert stored(html)["images"][0]["title"] == "caf\udce9.jpg"


def test_numbers_that_are_not_there(tmp_path: Path) -> None:
    nan = float("nan")
    page = smallest()
    group = GroupEntry(0, nan, {"eyes": RegionScore(nan, nan, nan, 0.1, nan, False)})
    page = replace(page, layers=(replace(page.layers[0], groups=(group,)),), regions=("eyes",))
    found = stored(write_page(page, tmp_path / "report.html").read_text())["layers"][0]["groups"][0]
    assert found["selectivity"] is None
    assert found["regions"]["eyes"]["pointing"] is None
    assert found["regions"]["eyes"]["chance"] == 0.1


def test_what_is_missing_leaves_no_heading(tmp_path: Path) -> None:
    bare = write_page(smallest(), tmp_path / "bare.html").read_text()
    full = replace(
        smallest(),
        regions=("eyes",),
        figures=(drawing(),),
        tables=(Table("Found", ("layer", "groups"), (("layer1", "3"),)),),
        details=(("seed", "0"),),
        limit="1 of 5 images.",
    )
    told = write_page(full, tmp_path / "full.html").read_text()
    for part in ('id="figures"', 'id="tables"', 'id="details"', "AUROC</dt>", "<optgroup"):
        assert part not in bare
        assert part in told
    assert 'src="data:image/png' in told
    assert "1 of 5 images." in told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda page: replace(page, images=()), "no image"),
        (lambda page: replace(page, layers=()), "no layer"),
        (lambda page: replace(page, images=2 * page.images), "maps of 1 images"),
        (lambda page: with_layer(page, kind="mean"), "no kind 'mean'"),
        (lambda page: with_layer(page, groups=()), "no groups"),
        (lambda page: with_layer(page, groups=2 * page.layers[0].groups), "for 2 groups"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_page(change(smallest()), tmp_path / "report.html")
    assert not list(tmp_path.iterdir())


def with_layer(page: Page, **changes: Any) -> Page:
    return replace(page, layers=(replace(page.layers[0], **changes),))


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="could not be written"):
        write_page(smallest(), tmp_path / "file" / "report.html")
