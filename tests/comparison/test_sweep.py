"""A sweep: the contenders that it makes, and how table, figure and report tell of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from sgekit.comparison.figures import costs, curves, differences
from sgekit.comparison.formats import short_lines
from sgekit.comparison.plan import Plan
from sgekit.comparison.report import write_report
from sgekit.comparison.results import Results, SweepValues
from sgekit.comparison.summary import summarise
from sgekit.comparison.sweep import parse_sweep
from sgekit.comparison.sweep_figure import sweep
from sgekit.comparison.tables import terminal_table
from sgekit.errors import InputError
from sgekit.figures.style import DARK, png
from sgekit.training.recipes import get_recipe

MakeResults = Callable[..., Results]

ACCURACIES = ([0.71, 0.76, 0.73], [0.72, 0.75, 0.74], [0.7, 0.74, 0.71], [0.69, 0.73, 0.73])


@pytest.fixture
def swept(make_results: MakeResults) -> Callable[..., Results]:
    """Summarised results of a sweep; keywords go to `make_results`."""

    def make(text: str, attention: tuple[str, ...] = ("sge",), **given: object) -> Results:
        found = parse_sweep(text, attention)
        top1 = dict(zip(found.contenders, ACCURACIES, strict=False))
        results = make_results({"none": [0.70, 0.74, 0.72], **top1}, **given)
        results["sweep"] = found.among(["none", *top1])
        return summarise(results)

    return make


@pytest.mark.parametrize(
    ("text", "attention", "contenders"),
    [
        ("groups=8, 16", ("none", "sge"), ("sge(groups=8)", "sge(groups=16)")),
        ("reduction=4,8", ("se",), ("se(reduction=4)", "se(reduction=8)")),
        (
            "bias_init,weight_init=0:1,1:0",
            ("sge",),
            ("sge(weight_init=1,bias_init=0)", "sge(weight_init=0,bias_init=1)"),
        ),
        (
            "groups=8,auto",
            ("sge(normalize=false)",),
            ("sge(groups=8,normalize=false)", "sge(groups=auto,normalize=false)"),
        ),
        ("normalize=true,false", ("sge",), ("sge(normalize=true)", "sge(normalize=false)")),
    ],
)
def test_contenders(text: str, attention: tuple[str, ...], contenders: tuple[str, ...]) -> None:
    assert parse_sweep(text, attention).contenders == contenders


@pytest.mark.parametrize(
    ("text", "attention", "message"),
    [
        ("groups=8", ("sge", "se"), "varies one attention; --attention names sge, se"),
        ("groups=8", ("none",), "varies one attention; --attention names none"),
        ("groups", ("sge",), "takes OPTION=VALUE,.* got 'groups'"),
        ("groups=,", ("sge",), "takes OPTION=VALUE"),
        ("=8", ("sge",), "takes OPTION=VALUE"),
        ("group=8", ("sge",), "sge has no option 'group'; did you mean 'groups'"),
        ("groups=8,many", ("sge",), "groups takes auto or a whole number, not 'many'"),
        ("groups=8,16,8", ("sge",), "names a value twice"),
        ("groups=8:9", ("sge",), "'8:9' has 2 values for 1 options"),
        ("groups,eps=8", ("sge",), "'8' has 1 values for 2 options"),
        ("groups,groups=8:8", ("sge",), "groups is set twice"),
        ("groups=8", ("sge(groups=4)",), "groups is set twice"),
    ],
)
def test_what_cannot_be_swept_is_named(text: str, attention: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_sweep(text, attention)


def test_values_of_earlier_calls_belong_to_it() -> None:
    found = parse_sweep("groups=8,16", ["sge(normalize=false)"])
    others = ["none", "sge", "sge(groups=4)", "sge(groups=4,normalize=false,eps=1)", "se"]
    earlier = "sge(groups=4,normalize=false)"
    assert found.among([*others, *found.contenders, earlier]) == {
        "attention": "sge(normalize=false)",
        "options": ["groups"],
        "values": {
            "sge(groups=8,normalize=false)": [8],
            "sge(groups=16,normalize=false)": [16],
            earlier: [4],
        },
    }


def test_a_plan_has_one_text_a_contender(tmp_path: Path) -> None:
    names = ("none", "sge( groups = 8 )", "sge(bias_init=0.0,weight_init=1)")
    plan = Plan("resnet10_small", names, (0,), get_recipe("quick"))
    assert plan.attention == ("none", "sge(groups=8)", "sge(weight_init=1,bias_init=0)")
    assert plan.runs(tmp_path)[1].out == tmp_path / "runs" / "sge(groups=8)-seed0"
    with pytest.raises(InputError, match="twice"):
        Plan("resnet10_small", ("sge(groups=8)", "sge(groups = 8)"), (0,), get_recipe("quick"))


def test_short_names() -> None:
    values: SweepValues = {
        "attention": "sge(eps=1)",
        "options": ["groups"],
        "values": {"sge(groups=8,eps=1)": [8]},
    }
    assert short_lines("none") == ["plain"]
    assert short_lines("sge(groups=8,eps=1)") == ["sge", "groups=8", "eps=1"]
    assert short_lines("sge(groups=8,eps=1)", values) == ["groups=8"]
    assert short_lines("se", values) == ["se"]


def ticks(figure: Figure) -> list[str]:
    assert png(figure).startswith(b"\x89PNG")
    return [label.get_text() for label in figure.axes[0].get_xticklabels()]


def means(figure: Figure) -> list[tuple[float, float]]:
    """Where the dots stand."""
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    return [(float(np.ravel(d.get_xdata())[0]), float(np.ravel(d.get_ydata())[0])) for d in dots]


def test_numbers_far_apart_stand_on_a_log_axis(swept: Callable[..., Results]) -> None:
    figure = sweep(swept("groups=128,8,32"), DARK)
    axes = figure.axes[0]
    assert axes.get_xscale() == "log"
    assert ticks(figure) == ["8", "32", "128"]
    found = means(figure)
    assert [x for x, _ in found] == [8, 32, 128]
    # 32 was the third to be named.
    assert [y for _, y in found] == pytest.approx([100 * 0.05 / 3, -1 / 3, 4 / 3])
    assert axes.get_xlabel() == "groups"
    assert axes.get_ylabel() == "points more or fewer than plain"


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("groups=16,8,64", ["8", "16", "64"]),  # a factor of 8 and no more
        ("weight_init=1,0,100", ["0", "1", "100"]),
        ("groups=auto,8,128", ["auto", "8", "128"]),
        ("normalize=true,false", ["true", "false"]),
        ("weight_init,bias_init=0:0,0:1,1:0", ["0:0", "0:1", "1:0"]),
    ],
)
def test_all_else_stands_in_even_steps(
    swept: Callable[..., Results], text: str, labels: list[str]
) -> None:
    figure = sweep(swept(text))
    assert figure.axes[0].get_xscale() == "linear"
    assert ticks(figure) == labels
    assert [x for x, _ in means(figure)] == list(range(len(labels)))


def test_an_interval_is_drawn_where_there_is_one(swept: Callable[..., Results]) -> None:
    several = sweep(swept("groups=8,16")).axes[0]
    one = sweep(swept("groups=8,16", seeds=[0])).axes[0]
    bars = [line for line in several.lines if len(np.ravel(line.get_ydata())) == 2]
    # The first of them: 1.33 points with three seeds.
    assert np.ravel(bars[0].get_ydata()) == pytest.approx([-0.101, 2.768], abs=1e-3)
    hollow = [line.get_markerfacecolor() for line in one.lines if line.get_marker() == "o"]
    assert hollow == ["#ffffff", "#ffffff"]


def test_nothing_to_draw_is_said(swept: Callable[..., Results]) -> None:
    results = swept("groups=8,16", lost=[("none", seed) for seed in range(3)], complete=False)
    texts = [text.get_text() for text in sweep(results).axes[0].texts]
    assert texts == ["No seed has finished for two contenders yet."]


@pytest.mark.parametrize("text", ["group_channels=8,16", "weight_init,bias_init=0:0,0:1"])
def test_terminal_names_the_rows_by_value_in_80_columns(
    swept: Callable[..., Results], text: str
) -> None:
    console = Console(width=80, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(swept(text)))
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= 80
    assert "−0.1 to +2.8" in capture.get()
    first = [line[:9].strip() for line in lines]
    head = "".join(first[: first.index("none") - 1])
    assert head == text.partition("=")[0].replace(",", ":")
    assert first[first.index("none") + 2] in ("8", "0:0")


def test_other_figures_name_what_varies(swept: Callable[..., Results]) -> None:
    results = swept("groups=8,16")
    for draw in (differences, costs):
        labels = [label.get_text() for label in draw(results).axes[0].get_yticklabels()]
        assert [label.split("\n")[0].split()[0] for label in labels] == ["groups=8", "groups=16"]
    legend = curves(results).axes[0].get_legend()
    assert legend is not None
    assert legend.get_texts()[1].get_text() == "groups=8 (3 seeds)"


def test_report_shows_the_sweep(swept: Callable[..., Results], tmp_path: Path) -> None:
    page = write_report(swept("groups=8,16,128"), [], tmp_path).read_text()
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "<h1>plain, sge with groups 8, 16, 128 on scenes</h1>" in page
    assert "Paired differences by groups of sge." in page
    assert "Paired differences in points by groups of sge: 8: +1.3 (−0.1 to +2.8); 16: " in page
    assert "sge(<wbr>groups=8)" in page
    assert page.count("<img") == 4


def test_report_without_a_pair_has_no_sweep(swept: Callable[..., Results], tmp_path: Path) -> None:
    lost = [("none", seed) for seed in range(3)]
    page = write_report(swept("groups=8,16", lost=lost, complete=False), [], tmp_path).read_text()
    assert "<h1>plain, sge with groups 8, 16 on scenes</h1>" in page
    assert not (tmp_path / "sweep.png").exists()
