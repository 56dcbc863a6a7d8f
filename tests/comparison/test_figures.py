import io
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image

from sgekit.analysis import Example, GateMap
from sgekit.comparison.figures import costs, curves, differences
from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.figures.gates import gates
from sgekit.figures.style import DARK, LIGHT, png

MakeResults = Callable[..., Results]

TOP1 = {"none": [0.70, 0.74, 0.72], "se": [0.7, 0.73, 0.72], "sge": [0.71, 0.76, 0.73]}


def texts(figure: Figure) -> str:
    """Every text of the figure, those of its axes' labels and legends among them."""
    drawn = png(figure)
    assert drawn.startswith(b"\x89PNG")
    found = figure.findobj(lambda artist: hasattr(artist, "get_text"))
    return "\n".join(str(artist.get_text()) for artist in found)  # type: ignore[attr-defined]


def test_curves_have_a_band_only_over_several_seeds(make_results: MakeResults) -> None:
    results = summarise(make_results(TOP1, lost=[("sge", 1), ("sge", 2)]))
    figure = curves(results)
    assert len(figure.axes[0].findobj(PolyCollection)) == 2
    assert len(figure.axes[0].lines) == 3 + 3 + 1 + 3
    assert "sge (1 seed)" in texts(figure)


def test_mean_curve_covers_what_all_seeds_reached(make_results: MakeResults) -> None:
    results = make_results({"none": [0.6, 0.8]}, seeds=[0, 1])
    del results["contenders"][0]["runs"][1]["curve"][2]
    mean = curves(summarise(results)).axes[0].lines[-1]
    assert list(np.asarray(mean.get_xdata())) == [1, 2]
    assert np.asarray(mean.get_ydata()) == pytest.approx([70 / 3, 140 / 3])


def test_differences_show_mean_interval_and_seeds(make_results: MakeResults) -> None:
    figure = differences(summarise(make_results(TOP1)))
    seeds, interval, mean = figure.axes[0].lines[3:6]
    assert sorted(np.asarray(seeds.get_xdata())) == pytest.approx([1, 1, 2])
    assert np.asarray(interval.get_xdata()) == pytest.approx([-0.101, 2.768], abs=1e-3)
    assert np.asarray(mean.get_xdata()) == pytest.approx([4 / 3])
    assert "sge  +1.3\n−0.1 to +2.8" in texts(figure)


def test_one_seed_says_that_it_has_no_interval(make_results: MakeResults) -> None:
    results = summarise(make_results({"none": [0.7], "sge": [0.72], "se": []}, seeds=[0]))
    found = texts(differences(results))
    assert "no interval, 1 seed" in found
    assert "se\nno pair yet" in found


def test_costs_are_bars_from_equal(make_results: MakeResults) -> None:
    figure = costs(summarise(make_results(TOP1)), DARK)
    left, right = figure.axes
    assert [bar.get_width() for bar in left.patches] == pytest.approx([0.1, 0.2])  # type: ignore[attr-defined]
    assert [bar.get_width() for bar in right.patches] == pytest.approx([0.01, 0.02])  # type: ignore[attr-defined]
    assert left.get_xlim() == right.get_xlim()
    assert "1.20×" in texts(figure)


def test_costs_without_one_of_the_two(make_results: MakeResults) -> None:
    results = summarise(make_results(TOP1))
    cost = results["contenders"][1].get("cost")
    assert cost is not None
    cost["train"] = None
    left, right = costs(results).axes
    assert (len(left.patches), len(right.patches)) == (1, 2)


def test_nothing_to_draw_is_said(make_results: MakeResults) -> None:
    results = summarise(make_results({"none": [], "sge": []}, priced=False, complete=False))
    assert "No run has finished" in texts(curves(results))
    assert "No seed has finished" in texts(differences(results))
    assert "No cost" in texts(costs(results))


def test_gates_show_each_group_on_one_scale_before_and_after() -> None:
    before = np.linspace(0, 2, 64, dtype=np.float32).reshape(8, 8)
    gate = np.full((8, 8), 0.5, dtype=np.float32)
    maps = GateMap(11, before, gate, before * gate)
    figure = gates(Example(Image.new("RGB", (32, 32)), "a cat", "layer1.0.se", (maps, maps)))
    images = [axes.images[0] for axes in figure.axes]
    assert len(images) == 2 * 3 + 1
    assert images[0].get_clim() == images[2].get_clim() == (0, 2)
    assert images[1].get_clim() == (0, 1)
    assert "group 11" in texts(figure)
    assert "0.50 to 0.50" in texts(figure)


def test_drawing_leaves_matplotlibs_settings_and_gives_the_same_bytes(
    make_results: MakeResults,
) -> None:
    before = dict(mpl.rcParams)
    results = summarise(make_results(TOP1))
    first, again, dark = (png(differences(results, theme)) for theme in (LIGHT, LIGHT, DARK))
    assert first == again != dark
    assert dict(mpl.rcParams) == before
    assert Image.open(io.BytesIO(first)).width > 1000
