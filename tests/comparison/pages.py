"""A report in a real browser."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page


@contextmanager
def opened(browser: Browser, report: Path, width: int, scheme: str) -> Iterator[Page]:
    """The report's page, unfolded, after what holds for all of them has been checked.

    It says nothing on the console, stays off the network, is no wider than the window and has the
    scheme's brightness; every image is seen and described.
    """
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url[:60]))
    page.goto(report.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")

    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [report.as_uri()[:60]]
    images = page.locator("img")
    for index in range(images.count()):
        image = images.nth(index)
        assert image.is_visible()
        assert image.evaluate("image => image.complete && image.naturalWidth > 0")
        assert len(image.get_attribute("alt") or "") > 20
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing in the narrow layout is cut off by its own box either.
    assert page.locator("table.main").evaluate("t => t.scrollWidth <= t.clientWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightness = sum(int(part) for part in background[4:-1].split(",")) / 3
    assert (lightness < 128) == (scheme == "dark")
    yield page
    context.close()
