"""What a detector's report shows beside its numbers: curves, changes by class, images."""

from dataclasses import dataclass
from pathlib import Path

from sgekit.comparison.found import read_found
from sgekit.comparison.gains import Gains, common_level, gains
from sgekit.comparison.plan import Plan
from sgekit.comparison.results import Results, baseline_of
from sgekit.data.detection import DetectionData
from sgekit.detection.evaluation import Kind
from sgekit.detection.matching import Floats


@dataclass(frozen=True)
class Evidence:
    """``precision`` holds for each contender (2, 101) of every run, see `found.RunFound`;
    ``objects`` are those of each class in the evaluation images; ``level`` is the score from which
    on detections count and are drawn in ``gains``, which tell of boxes or masks (``kind``)."""

    precision: dict[str, list[Floats]]
    objects: dict[str, int]
    level: float
    kind: Kind
    gains: list[Gains]


def gather(results: Results, plan: Plan, data: DetectionData, out: Path) -> Evidence:
    """The evidence of the ended runs in ``out``.

    Raises `InputError` where a run's detections cannot be read.
    """
    found = read_found(results, plan, data, out)
    level = common_level(found)
    return Evidence(
        {name: [run.precision for run in runs.values()] for name, runs in found.runs.items()},
        found.objects,
        level,
        found.kind,
        gains(found, baseline_of(results), level, data),
    )
