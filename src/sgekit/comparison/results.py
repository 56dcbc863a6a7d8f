"""The shape of ``results.json``, and reading and writing it.

Accuracies are fractions (0 to 1), times are seconds, memory is bytes. ``None`` stands for what is
not known: a run that has not happened, an interval that one seed cannot give, a number that is not
finite.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

from sgekit.errors import InputError
from sgekit.files import finite, write_atomic

SCHEMA = "sgekit.compare/1"


@dataclass(frozen=True)
class Metric:
    """What the contenders are compared by: a fraction, larger is better."""

    key: str
    """In a run; in its curve with `val_` before it."""
    name: str
    short: str
    noun: str


METRICS = {
    "top1": Metric("top1", "top-1 accuracy", "top-1", "accuracy"),
    "ap": Metric("ap", "box AP", "box AP", "box AP"),
}


class CurvePoint(TypedDict):
    """One epoch of one run."""

    epoch: int
    train_loss: float | None
    val_loss: float | None
    val_top1: float | None


class Run(TypedDict):
    """One training of one contender; ``top1`` belongs to the last epoch.

    A detector's has ``ap``, ``best_ap`` and ``scores`` in place of accuracies and loss.
    """

    seed: int
    top1: float | None
    top5: float | None
    loss: float | None
    best_top1: float | None
    best_epoch: int | None
    epochs: int
    seconds: float
    train_images_per_s: float | None
    curve: list[CurvePoint]


class SeedsNeeded(TypedDict):
    """Seeds with which ``difference`` would be seen four times in five.

    ``low`` and ``high`` repeat the estimate at the ends of the 80 % interval of the measured
    spread. All are ``None`` where the spread is unknown.
    """

    difference: float
    seeds: int | None
    low: int | None
    high: int | None


class Difference(TypedDict):
    """Contender minus baseline over the seeds that both have; see `statistics.PairedDifference`."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    seeds_needed: SeedsNeeded


class Spread(TypedDict):
    """Median, first and ninth decile of repeated measurements."""

    median: float
    low: float
    high: float


class Speed(TypedDict):
    """Throughput, and the time relative to the baseline (1.0 = equal, more = slower)."""

    images_per_s: Spread
    ratio: Spread


class Cost(TypedDict):
    """What a contender costs, measured side by side with the baseline."""

    train: Speed | None
    inference: Speed | None
    peak_memory_bytes: int | None


class OperationCounts(TypedDict):
    """Operations of one forward pass of one image.

    ``multiply_adds`` are those of convolutions and linear layers, ``other`` is all the rest,
    ``attention`` is what the attention layers take in all (contained in the first two).
    """

    multiply_adds: int
    other: int
    attention: int


class Contender(TypedDict):
    """One kind of attention with its runs and what they add up to."""

    attention: str
    parameters: int
    operations: OperationCounts
    runs: list[Run]
    mean: NotRequired[float | None]
    sd: NotRequired[float | None]
    difference: NotRequired[Difference | None]
    cost: NotRequired[Cost | None]
    conclusion: NotRequired[str]


class SweepValues(TypedDict):
    """Which options of ``attention`` vary, and their values by contender."""

    attention: str
    options: list[str]
    values: dict[str, list[Any]]


class DataSettings(TypedDict):
    """What was trained and evaluated on; ``train`` and ``val`` are numbers of images."""

    name: str
    kind: str
    path: str | None
    classes: int
    train: int
    val: int
    val_name: str
    skipped: int


class Settings(TypedDict):
    """What was asked for."""

    model: str
    attention: list[str]
    seeds: list[int]
    groups: int | str | None
    image_size: int
    recipe: dict[str, Any]
    data: DataSettings
    metric: NotRequired[str]
    detector: NotRequired[str]


class ScoreDifference(TypedDict):
    """One of COCO's scores of one contender against the baseline, as fractions.

    ``low`` and ``high`` are the 95 % interval over seeds, ``image_low`` and ``image_high`` that
    over redrawn evaluation images with the trained detectors as they are.
    """

    attention: str
    score: str
    baseline: float | None
    value: float | None
    n: int
    difference: float | None
    low: float | None
    high: float | None
    image_low: float | None
    image_high: float | None


class RunParts(TypedDict):
    """One network's part score (`explanation.measures.PartScore`) of the maps that the next layers
    see; ``found`` of ``parts`` parts have a group that points at them in 80 % of the images.
    ``chance`` names what it was measured against."""

    score: float
    found: int
    parts: int
    chance: str


class PartsOfContender(TypedDict):
    """Part scores of one contender by seed; the paired difference to the baseline, 95 % interval
    over seeds. ``found`` is a mean over seeds."""

    attention: str
    scores: dict[str, float]
    mean: float
    sd: float | None
    found: float
    parts: int
    difference: float | None
    low: float | None
    high: float | None


class Results(TypedDict):
    """Everything that a comparison found out."""

    schema: str
    sgekit: str
    command: str
    complete: bool
    settings: Settings
    environment: dict[str, Any]
    baseline: str
    sweep: NotRequired[SweepValues]
    contenders: list[Contender]
    detection: NotRequired[list[ScoreDifference]]
    parts: NotRequired[list[PartsOfContender]]
    conclusion: NotRequired[str]
    seconds: float


def write_json(results: Results, path: Path) -> Path:
    """Write ``results`` to ``path`` atomically; numbers that are not finite become ``null``."""
    text = json.dumps(finite(results), indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())
    return path


def read_json(path: Path) -> Results:
    """Read what `write_json` wrote.

    Raises `InputError` where ``path`` is missing, is not JSON or is not a comparison's result.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path} could not be read ({error.strerror or error})") from error
    except ValueError as error:
        raise InputError(f"{path} is not a JSON file ({error})") from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise InputError(f"{path} has schema {schema!r}; a comparison's results have {SCHEMA!r}")
    return cast(Results, content)


def baseline_of(results: Results) -> str:
    """The contender that the others are compared with: the named one, "none", or the first.

    Raises `InputError` where there are no contenders.
    """
    names = [contender["attention"] for contender in results["contenders"]]
    if not names:
        raise InputError("the results hold no contenders: nothing can be compared")
    wanted = results.get("baseline", "none")
    return next((name for name in (wanted, "none") if name in names), names[0])


def accuracies(contender: Contender) -> dict[int, float]:
    """The compared metric by seed, of the runs that have a finite one."""
    found = {run["seed"]: outcome(run) for run in contender["runs"]}
    return {s: value for s, value in found.items() if value is not None and math.isfinite(value)}


def outcome(run: Run) -> float | None:
    """What a run is compared by: its top-1 accuracy, or a detector's box AP."""
    values = cast(dict[str, Any], run)
    return cast(float | None, values["ap"] if "ap" in values else values["top1"])


def metric_of(results: Results) -> Metric:
    """The metric of a comparison."""
    return METRICS[results["settings"].get("metric", "top1")]
