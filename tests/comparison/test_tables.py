from collections.abc import Callable

from rich.console import Console

from sgekit.comparison.results import Results
from sgekit.comparison.summary import summarise
from sgekit.comparison.tables import markdown_table, terminal_table

MakeResults = Callable[..., Results]


def printed(results: Results, width: int) -> str:
    console = Console(width=width, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as capture:
        console.print(terminal_table(results))
    return capture.get()


def test_markdown(make_results: MakeResults) -> None:
    results = summarise(make_results({"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]}))
    head, rule, plain, sge = markdown_table(results).splitlines()
    assert head.count("|") == rule.count("|") == plain.count("|") == sge.count("|") == 9
    assert head.startswith("| attention | top-1 accuracy | difference")
    assert plain.startswith("| none (plain) | 72.0 ± 2.0 % | baseline | 1,230,000 |")
    assert sge == (
        "| sge | 73.3 ± 2.5 % | +1.3 (−0.1 to +2.8) | 1,230,240 | 21.3 M + 2 M "
        "| 1.10× (1.08–1.13) | 1.01× (0.99–1.04) | 324 MiB |"
    )


def test_markdown_names_what_detectors_are_compared_by(make_results: MakeResults) -> None:
    results = make_results({"none": [0.4], "sge": [0.5]})
    results["settings"]["metric"] = "ap"
    for contender in results["contenders"]:
        for run in contender["runs"]:
            run["ap"] = run["top1"]  # type: ignore[typeddict-unknown-key]
    assert markdown_table(summarise(results)).startswith("| attention | box AP | difference")


def test_markdown_of_what_is_unknown(make_results: MakeResults) -> None:
    results = summarise(make_results({"none": [0.7], "sge": []}, complete=False, priced=False))
    assert "| sge | – | – | 1,230,240 | 21.3 M + 2 M | – | – | – |" in markdown_table(results)


def test_terminal_shows_every_figure_whole_in_80_columns(make_results: MakeResults) -> None:
    results = summarise(make_results({"none": [0.70, 0.74, 0.72], "sge": [0.71, 0.76, 0.73]}))
    text = printed(results, 80)
    assert max(len(line) for line in text.splitlines()) <= 80
    for figure in ("72.0", "± 2.5", "−0.1 to +2.8", "1,230,240", "1.08–1.13", "324 MiB"):
        assert figure in text


def test_terminal_of_one_seed(make_results: MakeResults) -> None:
    text = printed(summarise(make_results({"none": [0.7], "sge": [0.72]}, seeds=[0])), 80)
    assert "no interval" in text
    assert "±" not in text
