from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sgekit.comparison.detection_figures import by_size, precision_recall
from sgekit.comparison.results import Results
from sgekit.figures.style import DARK, png
from tests.comparison.detections import made_up

MakeResults = Callable[..., Results]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made_up(tmp_path_factory.mktemp("two"), {"none": 0.6, "sge": 0.8}).results


def texts(figure: Figure) -> str:
    assert png(figure).startswith(b"\x89PNG")
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(str(artist.get_text()) for artist in found)  # type: ignore[attr-defined]


def test_sizes_have_a_dot_and_both_intervals(two: Results) -> None:
    rows = {row["score"]: row for row in two["detection"]}
    figure = by_size(two, theme=DARK)
    images, seeds, dot = figure.axes[0].lines[:3]
    everything = rows["ap"]
    assert everything["difference"] is not None
    assert np.asarray(dot.get_xdata()) == pytest.approx([100 * everything["difference"]])
    for line, low, high in ((seeds, "low", "high"), (images, "image_low", "image_high")):
        ends = [100 * everything[low], 100 * everything[high]]  # type: ignore[literal-required]
        assert np.asarray(line.get_xdata()) == pytest.approx(ends)
    found = texts(figure)
    # 80 pixels a side are medium: there is no large object.
    assert "large  –" in found
    assert f"all  +{100 * everything['difference']:.1f}" in found
    assert "points of AP more (right) or fewer (left) than plain" in found


def test_one_seed_is_hollow(tmp_path: Path) -> None:
    results = made_up(tmp_path, {"none": 0.6, "sge": 0.8, "se": 0.7}, seeds=(0,)).results
    figure = by_size(results, theme=DARK)
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert len(dots) == 3 * 2
    assert {dot.get_markerfacecolor() for dot in dots} == {DARK.background}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["sge", "se"]


def test_precision_is_a_mean_over_runs(two: Results) -> None:
    falling = np.linspace(1, 0, 101)
    runs = [np.stack([falling, falling / 2]), np.stack([falling / 2, falling / 4])]
    unknown = np.full((2, 101), np.nan)
    figure = precision_recall(two, {"none": runs, "sge": [*runs[:1], unknown]})
    left, right = figure.axes
    thin = [line for line in left.lines if line.get_linewidth() < 1]
    plain, sge = (line for line in left.lines if line.get_linewidth() > 1)
    assert len(thin) == 3
    assert np.asarray(plain.get_ydata()) == pytest.approx(75 * falling)
    assert np.asarray(sge.get_ydata()) == pytest.approx(100 * falling)
    assert np.asarray(right.lines[2].get_ydata()) == pytest.approx(37.5 * falling)
    found = texts(figure)
    assert "overlap (IoU) 0.75" in found
    assert "plain" in found


def test_nothing_to_draw_is_said(make_results: MakeResults) -> None:
    results = make_results({"none": [], "sge": []})
    assert "No seed has finished" in texts(by_size(results))
    assert "No run has ended" in texts(precision_recall(results, {"none": []}))
