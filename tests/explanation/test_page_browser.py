"""The page in a real browser: what is chosen is what is drawn, read, spoken and linked."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from matplotlib import colormaps
from playwright.sync_api import Browser, expect
from playwright.sync_api import Page as Tab

from sgekit.explanation.page import write_page
from tests.explanation.pages import (
    CELLS,
    HOSTILE,
    INDICES,
    MAPS,
    checked,
    expected,
    full,
    hover,
    listed,
    near,
    numbers,
    opened,
    settled,
    smallest,
)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(full(), tmp_path_factory.mktemp("explain") / "report.html")


@pytest.fixture(scope="module")
def heard() -> list[str]:
    """What the shared tab said on its console, raised, or asked the network for."""
    return []


@pytest.fixture(scope="module")
def shared(browser: Browser, heard: list[str]) -> Iterator[Tab]:
    def request(url: str) -> None:
        if not (url.startswith("data:") or url.partition("#")[0].endswith("/report.html")):
            heard.append(url)

    tab = browser.new_page(viewport={"width": 1280, "height": 1100})
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda sent: request(sent.url))
    yield tab
    tab.close()


@pytest.fixture
def tab(shared: Tab, report: Path, heard: list[str]) -> Iterator[Tab]:
    """The page as it opens; whatever a test does there, nothing may be heard of it."""
    heard.clear()
    opened(shared, report.as_uri())
    yield shared
    assert heard == []


def test_it_opens_at_the_most_selective_group(tab: Tab) -> None:
    assert listed(tab) == ["group 5", "group 17", "group 40", "group 3"]
    expect(checked(tab, "Group")).to_have_accessible_name("group 5, selectivity 0.400")
    expect(checked(tab, "Image")).to_have_accessible_name("image 1: scene 0")
    expect(tab.get_by_role("heading", name="Group 5 of stem")).to_be_visible()
    expect(tab.get_by_text("4 of the layer's 64 groups")).to_be_visible()
    expect(tab.get_by_text("3 of 100 images.")).to_be_visible()


def test_groups_are_sorted(tab: Tab) -> None:
    sort = tab.get_by_label("Sort by")
    sort.select_option("eyes")
    # Group 5 has no score there and comes last, though it stays chosen.
    assert listed(tab) == ["group 17", "group 40", "group 3", "group 5"]
    expect(checked(tab, "Group")).to_have_accessible_name("group 5, pointing at eyes –")
    sort.select_option("index")
    assert listed(tab) == ["group 3", "group 5", "group 17", "group 40"]
    sort.select_option("tail")  # all alike: by index
    assert listed(tab) == ["group 3", "group 5", "group 17", "group 40"]
    sort.select_option("selectivity")
    assert listed(tab) == ["group 5", "group 17", "group 40", "group 3"]


@pytest.mark.parametrize(
    ("layer", "image", "group", "row", "column"),
    [
        ("stem", 1, 0, 5, 1),
        ("other", 1, 1, 2, 3),
        pytest.param("stem", 0, 2, 0, 5, marks=pytest.mark.slow),
        pytest.param("stem", 2, 3, 4, 4, marks=pytest.mark.slow),
    ],
)
def test_hover_reads_the_cell(
    tab: Tab, layer: str, image: int, group: int, row: int, column: int
) -> None:
    tab.get_by_label("Layer").select_option(layer)
    tab.get_by_role("radio", name=f"image {image + 1}:").click()
    tab.get_by_role("radio", name=f"group {INDICES[group]},").click()
    settled(tab)
    hover(tab, row, column, CELLS[image])
    readout = tab.locator("#readout")
    rows, columns = CELLS[image]
    expect(readout).to_contain_text(f"row {row + 1} of {rows}, column {column + 1} of {columns}")
    found = numbers(readout.locator("strong").inner_text())
    error = np.abs(np.array(found) - expected(layer, image, group, row, column))
    assert (error <= near(layer, image, group)).all()
    tab.locator("#caption").hover()
    expect(readout).to_contain_text("no cell chosen")


def test_cells_have_the_colour_of_their_value(tab: Tab) -> None:
    tab.get_by_role("radio", name="image 2:").click()
    tab.get_by_role("radio", name="group 17,").click()
    tab.get_by_label("Opacity").fill("100")
    settled(tab)
    rows, columns = CELLS[1]
    drawn = tab.locator("#view").evaluate(
        """(view, [rows, columns]) => {
          const context = new OffscreenCanvas(view.width, view.height).getContext("2d");
          context.drawImage(view, 0, 0);
          const pixels = context.getImageData(0, 0, view.width, view.height).data;
          return Array.from({ length: rows * columns }, (_, cell) => {
            const x = Math.floor(view.width * (cell % columns + .5) / columns);
            const y = Math.floor(view.height * (Math.floor(cell / columns) + .5) / rows);
            return [...pixels.slice(4 * (y * view.width + x), 4 * (y * view.width + x) + 3)];
          });
        }""",
        [rows, columns],
    )
    gate = MAPS["stem", 1][0][2].astype(np.float64)
    steps = np.rint(255 * (gate - gate.min()) / np.ptp(gate)).astype(int)
    wanted = colormaps["cividis"](steps.ravel(), bytes=True)[:, :3].astype(int)
    assert np.abs(np.array(drawn) - wanted).max() <= 3  # a neighbouring step of the 256
    tab.get_by_role("radio", name="picture", exact=True).check()
    expect(tab.get_by_label("Opacity")).to_be_disabled()
    expect(tab.locator("#scale")).to_be_hidden()


def test_lengths_share_a_scale_and_a_constant_gate_is_said_to_be_one(tab: Tab) -> None:
    tab.get_by_role("radio", name="group 40,").click()
    settled(tab)
    expect(tab.locator("#range")).to_have_text(
        "The gate of group 40 here is constant: 0.500 at every cell."
    )
    expect(tab.locator("#facts")).to_contain_text("constant, 0.500")
    before = MAPS["stem", 0][1][3]
    for show, top in (("before", before.max()), ("after", before.max() / 2)):
        tab.get_by_role("radio", name=show, exact=True).check()
        settled(tab)
        expect(tab.locator("#low")).to_have_text("0.000")
        expect(tab.locator("#high")).to_have_text(f"{before.max():.3f}")
        expect(tab.locator("#range")).to_contain_text(f"highest {top:.3f}")


def test_other_kinds_say_what_they_are(tab: Tab) -> None:
    tab.get_by_role("radio", name="after", exact=True).check()
    tab.get_by_label("Layer").select_option("plain")
    settled(tab)
    expect(tab.locator("#kind")).to_contain_text("no attention here")
    expect(tab.get_by_role("radio", name="similarity", exact=True)).to_be_checked()
    expect(tab.get_by_role("radio", name="after", exact=True)).to_be_hidden()
    expect(tab.locator("#spoken")).to_contain_text("no attention here")
    tab.get_by_label("Layer").select_option("other")
    settled(tab)
    expect(tab.locator("#kind")).to_contain_text("may exceed 1")
    expect(tab.get_by_role("radio", name="after", exact=True)).to_be_checked()


def test_scores_of_the_group(tab: Tab) -> None:
    tab.get_by_role("radio", name="group 17,").click()
    table = tab.get_by_role("table", name="Over all measured images")
    row = table.get_by_role("row", name="eyes")
    expect(row).to_contain_text("▲ above chance")
    expect(row.get_by_role("cell")).to_have_text(["75.065.0 to 85.0", "30.0", "0.80"])
    expect(table.get_by_role("row", name="tail")).to_contain_text("not above chance")
    unmeasured = table.get_by_role("row", name="never_measured")
    expect(unmeasured.get_by_role("cell")).to_have_text(["–", "–", "–"])


def test_by_keyboard_alone(tab: Tab) -> None:
    press = tab.keyboard.press
    tab.get_by_label("Layer").focus()
    press("Tab")
    press("ArrowRight")
    expect(checked(tab, "Image")).to_be_focused()
    expect(checked(tab, "Image")).to_have_accessible_name("image 2: scene 1")
    press("End")
    expect(checked(tab, "Image")).to_have_accessible_name("image 3: scene 2")
    press("ArrowRight")  # there is none behind the last
    expect(checked(tab, "Image")).to_have_accessible_name("image 3: scene 2")
    press("Tab")
    press("ArrowLeft")
    expect(tab.get_by_role("radio", name="before", exact=True)).to_be_checked()
    press("Tab")
    view = tab.locator("#view")
    expect(view).to_be_focused()
    settled(tab)
    gate = MAPS["stem", 2][0][1]
    row, column = divmod(int(gate.argmax()), 5)
    spoken = tab.locator("#spoken")
    expect(spoken).to_contain_text(f"row {row + 1} of 5, column {column + 1} of 5: gate")
    for _ in range(6):
        press("ArrowUp")
    press("Home")
    press("ArrowRight")
    expect(spoken).to_contain_text("row 1 of 5, column 2 of 5")
    found = numbers(spoken.inner_text().partition(": ")[2])
    assert (np.abs(np.array(found) - expected("stem", 2, 1, 0, 1)) <= near("stem", 2, 1)).all()
    press("Escape")
    expect(tab.locator("#readout")).to_contain_text("no cell chosen")
    for _ in range(3):
        press("Tab")  # opacity, sort, groups
    expect(checked(tab, "Group")).to_be_focused()
    press("ArrowRight")
    expect(checked(tab, "Group")).to_have_accessible_name("group 17, selectivity 0.300")
    outline = checked(tab, "Group").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"


def test_the_last_of_many_choices_counts(tab: Tab) -> None:
    tab.evaluate(
        """() => {
          const click = (name) => document.querySelector(`[aria-label^="${name}"]`).click();
          const layer = document.getElementById("layer");
          for (const value of ["1", "2", "0"]) {
            layer.value = value;
            layer.dispatchEvent(new Event("change"));
            click("image 3:");
            click("group 3,");
            document.getElementById("view").dispatchEvent(new PointerEvent("pointermove"));
          }
          click("image 1:");
        }"""
    )
    settled(tab)
    expect(tab.get_by_role("heading", name="Group 3 of stem")).to_be_visible()
    gate = MAPS["stem", 0][0][0]
    expect(tab.locator("#range")).to_have_text(
        f"The gate of group 3 here: lowest {gate.min():.3f}, highest {gate.max():.3f}."
    )
    drawn = "all => all.every(canvas => canvas.width === 128)"
    assert tab.locator("#groups canvas").evaluate_all(drawn)


def test_a_cell_stays_where_it_is_in_the_picture(tab: Tab) -> None:
    hover(tab, 3, 5, CELLS[0])
    tab.mouse.down()
    tab.mouse.up()
    tab.locator("#caption").hover()
    expect(tab.locator("#readout")).to_contain_text("row 4 of 4, column 6 of 6")
    tab.get_by_role("radio", name="image 2:").click()
    expect(tab.locator("#readout")).to_contain_text("row 6 of 6, column 4 of 4")


def test_the_address_brings_a_view_back(tab: Tab, report: Path) -> None:
    tab.get_by_label("Layer").select_option("other")
    tab.get_by_label("Sort by").select_option("eyes")
    tab.get_by_role("radio", name="image 3:").click()
    tab.get_by_role("radio", name="group 40,").click()
    tab.get_by_role("radio", name="before", exact=True).check()
    settled(tab)
    expect(tab).to_have_url(
        re.compile("#layer=other&image=3&group=40&sort=region%3Aeyes&show=before$")
    )
    opened(tab, tab.url)
    expect(tab.get_by_role("heading", name="Group 40 of other")).to_be_visible()
    expect(checked(tab, "Image")).to_have_accessible_name("image 3: scene 2")
    expect(tab.get_by_role("radio", name="before", exact=True)).to_be_checked()
    assert listed(tab)[0] == "group 17"
    tab.goto(report.as_uri() + "#layer=stem&image=1&group=3")  # a link followed within the page
    expect(tab.get_by_role("heading", name="Group 3 of stem")).to_be_visible()


@pytest.mark.parametrize(
    "hash",
    [
        "#layer=none&image=9&group=4&sort=region:ears&show=all",
        "#image=NaN&group=constructor&sort=__proto__&show=",
        "#%E0%A4%A&&==&layer=<img src=x onerror=alert(1)>",
    ],
)
def test_an_address_that_makes_no_sense(tab: Tab, report: Path, hash: str) -> None:
    opened(tab, report.as_uri() + hash)
    expect(tab.get_by_role("heading", name="Group 5 of stem")).to_be_visible()
    expect(checked(tab, "Image")).to_have_accessible_name("image 1: scene 0")
    expect(tab.get_by_role("radio", name="gate", exact=True)).to_be_checked()


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (320, "light")])
def test_small_screens(tab: Tab, width: int, scheme: str) -> None:
    tab.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
    tab.set_viewport_size({"width": width, "height": 800})
    try:
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        sizes = tab.locator("button, select, input[type=range], .switch label").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect()).map(r => [r.width, r.height, r.right])"
        )
        assert all(min(wide, high) >= 24 and right <= width for wide, high, right in sizes)
        assert tab.locator("#scores").evaluate(
            "t => t.getBoundingClientRect().right <= t.parentElement.getBoundingClientRect().right"
        )
        background = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(part) for part in background[4:-1].split(",")) / 3
        assert (lightness < 128) == (scheme == "dark")
        assert tab.locator("figure img").evaluate("i => i.currentSrc === i.src") == (
            scheme == "light"
        )
    finally:
        tab.emulate_media(color_scheme="light")
        tab.set_viewport_size({"width": 1280, "height": 1100})


def test_the_smallest_page(tab: Tab, tmp_path: Path) -> None:
    opened(tab, write_page(smallest(HOSTILE), tmp_path / "report.html").as_uri())
    expect(tab.get_by_role("heading", level=1)).to_have_text(HOSTILE)
    expect(tab.get_by_role("heading", name=f"Group 0 of {HOSTILE}")).to_be_visible()
    expect(tab.get_by_text("The layer has one group.")).to_be_visible()
    expect(tab.locator("#caption")).to_have_text(f"{HOSTILE} · {HOSTILE}")
    assert tab.locator("img[src=x]").count() == 0


def test_without_javascript(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    tab = context.new_page()
    tab.goto(report.as_uri())
    expect(tab.locator("#explorer")).to_be_hidden()
    # Chromium hides noscript where scripts are switched off for a page alone, as they are here.
    assert "switched off" in (tab.locator("noscript").text_content() or "")
    expect(tab.get_by_role("table", name="Found")).to_be_visible()
    context.close()


def test_maps_that_cannot_be_decoded_are_told(shared: Tab, report: Path, tmp_path: Path) -> None:
    broken = tmp_path / "report.html"
    broken.write_text(
        report.read_text().replace("data:image/png;base64,iVBOR", "data:image/png;base64,AAAA")
    )
    opened(shared, broken.as_uri())
    expect(shared.get_by_role("alert")).to_contain_text("stem, image 1: the maps could not be")
