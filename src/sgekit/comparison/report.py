"""The report: one self-contained HTML file, and its figures as PNG beside it."""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from sgekit.analysis import Example
from sgekit.comparison import formats
from sgekit.comparison.detection_report import detection_parts
from sgekit.comparison.evidence import Evidence
from sgekit.comparison.figures import costs, curves, differences
from sgekit.comparison.results import Results, baseline_of, metric_of
from sgekit.comparison.summary import summarise
from sgekit.comparison.sweep_figure import sweep
from sgekit.comparison.tables import rows
from sgekit.figures.gates import FLAT, gates
from sgekit.figures.pictures import Picture, picture
from sgekit.files import write_atomic
from sgekit.models.contender import first_of

_RUN_COLUMNS = {
    "top1": (
        *("attention", "seed", "top-1", "top-5", "loss"),
        *("best top-1 (epoch)", "epochs", "time", "images/s"),
    ),
    "ap": (
        *("attention", "seed", "AP", "AP50", "AP75"),
        *("best AP (epoch)", "epochs", "time", "images/s"),
    ),
}


def write_report(
    results: Results, examples: Sequence[Example], out: Path, evidence: Evidence | None = None
) -> Path:
    """Write ``report.html`` and the figures as PNG into ``out``; returns the report's path.

    ``results`` as `summary.summarise` returns them; runs, costs and examples may be missing, and
    the report says so. ``evidence`` is what detectors found (`evidence.gather`). The HTML needs no
    other file and no network. Files are replaced atomically. Raises `InputError`
    where there are no contenders or a file cannot be written.
    """
    if "conclusion" not in results:
        results = summarise(results)
    charts = _charts(results, out)
    run = [contender["attention"] for contender in results["contenders"] if contender["runs"]]
    template = _environment().get_template("report.html.j2")
    page = template.render(
        results=results,
        metric=metric_of(results),
        run_columns=_RUN_COLUMNS[metric_of(results).key],
        detection=detection_parts(results, evidence, out)
        if metric_of(results).key == "ap"
        else None,
        settings=results["settings"],
        compared=_compared(results),
        shown=first_of("sge", run),
        baseline=formats.display_name(baseline_of(results)),
        rows=rows(results),
        charts=charts,
        examples=[_example(number, example, out) for number, example in enumerate(examples, 1)],
        layer=examples[0].layer if examples else None,
        trained=any(_opened(example) for example in examples),
        planned=len(results["contenders"]) * len(results["settings"]["seeds"]),
        done=sum(len(contender["runs"]) for contender in results["contenders"]),
    )
    path = out / "report.html"
    write_atomic(path, page.encode())
    return path


def _charts(results: Results, out: Path) -> dict[str, Picture | None]:
    """The charts for which there is something to draw; the others are None."""
    contenders = results["contenders"]
    told = rows(results)
    noun = formats.capital(metric_of(results).noun)
    names = ("differences", "sweep", "curves", "costs")
    charts: dict[str, Picture | None] = dict.fromkeys(names)
    if any(contender.get("difference") for contender in contenders):
        cells = "; ".join(f"{row.attention} {row.difference}" for row in told)
        charts["differences"] = picture(
            "differences",
            partial(differences, results),
            out,
            f"Paired differences in points with 95 % intervals: {cells}.",
            "Paired differences. Dot: mean; bar: 95 % interval; small ticks: one seed each.",
        )
        if "sweep" in results:
            charts["sweep"] = _sweep(results, out)
    if any(run["curve"] for contender in contenders for run in contender["runs"]):
        cells = "; ".join(f"{row.attention} ends at {row.accuracy}" for row in told)
        charts["curves"] = picture(
            "curves",
            partial(curves, results),
            out,
            f"{noun} by epoch for each contender: {cells}.",
            f"{noun} on the evaluation images. Thick: mean over seeds; band: ± one standard "
            "deviation; thin: one seed each.",
        )
    if any(contender.get("cost") for contender in contenders):
        cells = "; ".join(
            f"{row.attention} training {row.training}, inference {row.inference}" for row in told
        )
        charts["costs"] = picture(
            "costs",
            partial(costs, results),
            out,
            f"Training and inference time relative to the baseline: {cells}.",
            "Time for the same work, from 1.00× (equal) to the right (slower) or left (faster). "
            "Line: first to ninth decile of the repeats.",
        )
    return charts


def _sweep(results: Results, out: Path) -> Picture:
    swept = results["sweep"]
    options = " and ".join(swept["options"])
    names = [contender["attention"] for contender in results["contenders"]]
    by_name = dict(zip(names, rows(results), strict=True))
    cells = "; ".join(
        f"{formats.values_text(values)}: {by_name[name].difference}"
        for name, values in swept["values"].items()
    )
    return picture(
        "sweep",
        partial(sweep, results),
        out,
        f"Paired differences in points by {options} of {swept['attention']}: {cells}.",
        f"Paired differences by {options} of {swept['attention']}. Dot: mean, hollow where there "
        "is no interval; bar: 95 % interval; small ticks: one seed each.",
    )


def _compared(results: Results) -> str:
    """The contenders in words; those of a sweep as the values of its options."""
    swept = results.get("sweep")
    values = swept["values"] if swept else {}
    names = [formats.display_name(n) for n in results["settings"]["attention"] if n not in values]
    if swept and values:
        listed = ", ".join(formats.values_text(value) for value in values.values())
        names.append(f"{swept['attention']} with {':'.join(swept['options'])} {listed}")
    return ", ".join(names)


def _example(number: int, example: Example, out: Path) -> Picture:
    groups = ", ".join(str(maps.group) for maps in example.maps)
    alt = (
        f"{example.title}: the image, and for groups {groups} of {example.layer} the vector length "
        "before, the gate, and the vector length after"
    )
    return picture(f"example-{number}", partial(gates, example), out, alt, example.title)


def _environment() -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("sgekit.comparison"), PackageLoader("sgekit.figures")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        capital=formats.capital,
        percent=formats.percent,
        p_value=formats.p_value,
        duration=formats.duration,
        count=formats.count,
        breakable=_breakable,
        decimal=_decimal,
        signed=_signed,
        text=_text,
    )
    return environment


def _opened(example: Example) -> bool:
    return any(float(maps.gate.max() - maps.gate.min()) >= FLAT for maps in example.maps)


def _breakable(name: str) -> Markup:
    """A contender's name that may go on in the next line before an option, and nowhere else."""
    return Markup(re.sub(r"([(,])(?=\w+=)", r"\1<wbr>", str(escape(name)).replace(" ", "&nbsp;")))


def _decimal(value: float | None, decimals: int = 2) -> str:
    return formats.NONE if value is None else f"{value:,.{decimals}f}"


def _signed(value: float, decimals: int = 2) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def _text(value: Any) -> str:
    """A setting as text: sequences by commas, nothing as a dash."""
    if value is None:
        return formats.NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or formats.NONE
    return str(value)
