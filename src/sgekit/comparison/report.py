"""The report: one self-contained HTML file, and its figures as PNG beside it."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from sgekit.analysis import Example
from sgekit.comparison import formats
from sgekit.comparison.figure_style import DARK, LIGHT, Theme, png
from sgekit.comparison.figures import costs, curves, differences
from sgekit.comparison.gate_figure import gates
from sgekit.comparison.results import Results, baseline_of, write_atomic
from sgekit.comparison.tables import rows


@dataclass(frozen=True)
class _Picture:
    """A figure in both themes as data URIs, with its text for those who don't see it."""

    light: str
    dark: str
    alt: str
    caption: str


def write_report(results: Results, examples: Sequence[Example], out: Path) -> Path:
    """Write ``report.html`` and the figures as PNG into ``out``; returns the report's path.

    ``results`` as `summary.summarise` returns them; runs, costs and examples may be missing, and
    the report says so. The HTML needs no other file and no network. Files are replaced atomically.
    Raises `InputError` where there are no contenders or a file cannot be written.
    """
    charts = {
        "differences": _picture(
            "differences", lambda theme: differences(results, theme), out,
            "Paired differences to the baseline with 95 % intervals: " + _told(results),
            "Paired differences. Dot: mean; bar: 95 % interval; small ticks: one seed each.",
        ),
        "curves": _picture(
            "curves", lambda theme: curves(results, theme), out,
            "Validation accuracy by epoch for each contender: " + _accuracies_told(results),
            "Validation accuracy. Thick: mean over seeds; band: ± one standard deviation; "
            "thin: one seed each.",
        ),
        "costs": _picture(
            "costs", lambda theme: costs(results, theme), out,
            "Training and inference time relative to the baseline: " + _costs_told(results),
            "Time for the same work, from 1.00× (equal) to the right (slower) or left (faster). "
            "Line: smallest to largest of the repeats.",
        ),
    }  # fmt: skip
    pictures = [
        _picture(
            f"example-{number}", lambda theme, example=example: gates(example, theme), out,  # type: ignore[misc]
            f"{example.title}: the image, and for groups "
            f"{', '.join(str(m.group) for m in example.maps)} of {example.layer} the vector "
            "length before, the gate, and the vector length after",
            example.title,
        )
        for number, example in enumerate(examples, start=1)
    ]  # fmt: skip
    page = _environment().get_template("report.html.j2").render(
        results=results,
        settings=results["settings"],
        baseline=formats.display_name(baseline_of(results)),
        rows=rows(results),
        charts=charts,
        examples=pictures,
        layer=examples[0].layer if examples else None,
        trained=any(_opened(example) for example in examples),
        planned=len(results["contenders"]) * len(results["settings"]["seeds"]),
        done=sum(len(contender["runs"]) for contender in results["contenders"]),
    )  # fmt: skip
    path = out / "report.html"
    write_atomic(path, page.encode())
    return path


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("sgekit.comparison", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=formats.percent,
        duration=formats.duration,
        count=formats.count,
        display=formats.display_name,
        decimal=_decimal,
        text=_text,
    )
    return environment


def _picture(
    name: str, draw: Callable[[Theme], Figure], out: Path, alt: str, caption: str
) -> _Picture:
    light, dark = png(draw(LIGHT)), png(draw(DARK))
    write_atomic(out / f"{name}.png", light)
    return _Picture(_uri(light), _uri(dark), alt, caption)


def _uri(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _opened(example: Example) -> bool:
    return any(float(maps.gate.max() - maps.gate.min()) > 1e-3 for maps in example.maps)


def _told(results: Results) -> str:
    cells = [f"{row.attention} {row.difference}" for row in rows(results)]
    return "; ".join(cells) + "."


def _accuracies_told(results: Results) -> str:
    return (
        "; ".join(f"{row.attention} ends at {row.accuracy}" for row in rows(results))
        + "."
    )


def _costs_told(results: Results) -> str:
    cells = [
        f"{r.attention} training {r.training}, inference {r.inference}"
        for r in rows(results)
    ]
    return "; ".join(cells) + "."


def _decimal(value: float | None, decimals: int = 2) -> str:
    return formats.NONE if value is None else f"{value:,.{decimals}f}"


def _text(value: Any) -> str:
    """A setting as text: sequences by commas, nothing as a dash."""
    if value is None:
        return formats.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or formats.NONE
    return str(value)
