"""The comparison as one table: rows of text, and the same in Markdown and for the terminal."""

from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table

from sgekit.comparison.conclusion import Verdict, verdict
from sgekit.comparison.formats import (
    NONE,
    count,
    decimals_for,
    display_name,
    interval,
    mean_sd,
    percent,
    points,
    ratio,
    short_lines,
    size,
    values_text,
)
from sgekit.comparison.results import Contender, Results, Speed, SweepValues, baseline_of, metric_of

COLUMNS = (
    "attention",
    "top-1 accuracy",
    "difference, points (95 % interval)",
    "parameters",
    "operations",
    "training time",
    "inference time",
    "peak memory",
)

_NAME = 8  # characters of the terminal table's first column


@dataclass(frozen=True)
class Row:
    """One contender's cells as text, in the order of `COLUMNS`; below them their parts."""

    attention: str
    accuracy: str
    difference: str
    parameters: str
    operations: str
    training: str
    inference: str
    memory: str
    seeds: int
    verdict: Verdict | None
    conclusion: str
    difference_mean: str
    difference_interval: str | None
    multiply_adds: str
    other_operations: str
    training_speed: str | None
    inference_speed: str | None

    def cells(self) -> tuple[str, ...]:
        """The cells in the order of `COLUMNS`."""
        return (
            self.attention,
            self.accuracy,
            self.difference,
            self.parameters,
            self.operations,
            self.training,
            self.inference,
            self.memory,
        )


def rows(results: Results) -> list[Row]:
    """One row a contender of summarised ``results``; what is unknown is a dash."""
    baseline = baseline_of(results)
    return [_row(contender, baseline) for contender in results["contenders"]]


@dataclass(frozen=True)
class ScoreRow:
    """One of COCO's scores of one contender against the baseline, as text."""

    attention: str
    score: str
    baseline: str
    value: str
    difference: str
    over_seeds: str
    over_images: str


SCORES = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "ap_small": "AP small",
    "ap_medium": "AP medium", "ap_large": "AP large", "ar100": "AR",
}  # fmt: skip
"""COCO's scores as reports call them; those of masks have `mask_` before them."""


def score_rows(results: Results) -> list[ScoreRow]:
    """The scores of detectors by size and threshold; none for classifiers."""

    def limits(low: float | None, high: float | None) -> str:
        return NONE if low is None or high is None else f"{points(low)} to {points(high)}"

    return [
        ScoreRow(
            display_name(row["attention"]),
            score_name(row["score"]),
            percent(row["baseline"]),
            percent(row["value"]),
            NONE if row["difference"] is None else points(row["difference"]),
            limits(row["low"], row["high"]),
            limits(row["image_low"], row["image_high"]),
        )
        for row in results.get("detection", [])
    ]


def score_name(key: str) -> str:
    """A score's name: "AP75", "mask AP small"."""
    plain = SCORES[key.removeprefix("mask_")]
    return f"mask {plain}" if key.startswith("mask_") else plain


def terminal_table(results: Results) -> Table:
    """The table for a terminal, in 80 columns: the spread stands below its figure.

    The rows of a sweep are named by their values, below the names of the options.
    """
    sweep = results.get("sweep")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    heads = (
        ":\n".join(map(_narrow, sweep["options"])) if sweep else "",
        metric_of(results).short,
        "difference",
        "param-\neters",
        "opera-\ntions",
        "training\ntime",
    )
    for index, head in enumerate((*heads, "inference\ntime", "peak\nmemory")):
        side: Literal["left", "right"] = "left" if index == 0 else "right"
        table.add_column(
            head, justify=side, overflow="fold", max_width=_NAME if index == 0 else None
        )
    styles = {Verdict.BETTER: "green", Verdict.WORSE: "red"}
    for row, contender in zip(rows(results), results["contenders"], strict=True):
        style = styles.get(row.verdict) if row.verdict is not None else None
        table.add_row(
            _short_name(row, contender["attention"], sweep),
            row.accuracy.removesuffix(" %").replace(" ±", "\n±"),
            _stacked(row.difference),
            row.parameters,
            f"{row.multiply_adds}\n+ {row.other_operations}",
            _stacked(row.training),
            _stacked(row.inference),
            row.memory,
            style=style,
        )
    return table


def markdown_table(results: Results) -> str:
    """The table in Markdown (GitHub's dialect), with a final newline."""
    columns = [COLUMNS[0], metric_of(results).name, *COLUMNS[2:]]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    for row in rows(results):
        cells = (cell.replace("|", "\\|") for cell in row.cells())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _row(contender: Contender, baseline: str) -> Row:
    name = contender["attention"]
    cost = contender.get("cost")
    train, inference = (cost["train"], cost["inference"]) if cost else (None, None)
    multiply_adds = count(contender["operations"]["multiply_adds"])
    other = count(contender["operations"]["other"])
    mean, limits = _difference(contender, baseline)
    return Row(
        attention="none (plain)" if name == "none" else name,
        accuracy=mean_sd(contender.get("mean"), contender.get("sd")),
        difference=f"{mean} ({limits})" if limits else mean,
        parameters=f"{contender['parameters']:,}",
        operations=f"{multiply_adds} + {other}",
        training=ratio(train["ratio"]) if train else NONE,
        inference=ratio(inference["ratio"]) if inference else NONE,
        memory=size(cost["peak_memory_bytes"] if cost else None),
        seeds=len(contender["runs"]),
        verdict=None if name == baseline else verdict(contender.get("difference")),
        conclusion=contender.get("conclusion", ""),
        difference_mean=mean,
        difference_interval=limits,
        multiply_adds=multiply_adds,
        other_operations=other,
        training_speed=_speed(train),
        inference_speed=_speed(inference),
    )


def _difference(contender: Contender, baseline: str) -> tuple[str, str | None]:
    """The mean difference, and its interval where there is a difference."""
    difference = contender.get("difference")
    if contender["attention"] == baseline:
        return "baseline", None
    if difference is None:
        return NONE, None
    mean = points(difference["mean"], decimals_for(difference))
    return mean, interval(difference) or "no interval"


def _speed(speed: Speed | None) -> str | None:
    return None if speed is None else f"{speed['images_per_s']['median']:,.0f} images/s"


def _short_name(row: Row, attention: str, sweep: SweepValues | None) -> str:
    """The row's name in lines; the value or values alone where the row belongs to the sweep."""
    if sweep and attention in sweep["values"]:
        return values_text(sweep["values"][attention])
    if attention == "none":
        return row.attention.replace(" ", "\n")
    return "\n".join(map(_narrow, short_lines(attention)))


def _narrow(text: str) -> str:
    """An option in lines, where it is wider than its column."""
    return text if len(text) <= _NAME else text.replace("_", "_\n").replace("=", "\n=")


def _stacked(cell: str) -> str:
    return cell.replace(" (", "\n", 1).removesuffix(")")
