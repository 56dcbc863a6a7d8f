"""One network and some images: everything that can be said of what its groups look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sgekit.data.regions import RegionData
from sgekit.errors import InputError
from sgekit.explanation.look import MAPS, Seen, look
from sgekit.explanation.measures import Finding, PartScore, findings, own_parts, part_score
from sgekit.explanation.sources import labels_between
from sgekit.explanation.stability import Stability, stability
from sgekit.explanation.subject import Classifier, Item, Subject

MOST_SHOWN = 50
_DISTURBED = 256


@dataclass(frozen=True)
class Explanation:
    """What was found. Of each of MAPS that was aligned: the findings of every group, the part of
    its own that a group has, and the network's part score. ``parts`` are what the score is over:
    the regions but the whole, or the whole where there is nothing else."""

    data: RegionData
    classes: tuple[str, ...]
    seen: Seen
    parts: tuple[str, ...]
    findings: dict[str, list[Finding]] = field(default_factory=dict)
    own: dict[str, dict[tuple[str, int], str]] = field(default_factory=dict)
    scores: dict[str, PartScore] = field(default_factory=dict)
    stability: list[Stability] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """What the layers' gates are: "gate", "similarity" or "ratio" (see `GateRecord`)."""
        return next(iter(self.seen.surveys.values())).kind

    @property
    def accuracy(self) -> float | None:
        """Top-1 on the labelled images, a fraction."""
        return self.seen.correct / self.seen.labelled if self.seen.labelled else None

    @property
    def score(self) -> PartScore | None:
        """The one number to compare networks by: that of the maps that the next layers see."""
        return self.scores.get("after") or self.scores.get("before")


def explain_data(
    subject: Subject,
    data: RegionData,
    *,
    images: int | None = None,
    show: int = 24,
    batch_size: int = 32,
    disturb: bool = True,
    maps: Sequence[str] = MAPS,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Explanation:
    """Look at ``images`` of the data (all), evenly spread, and keep ``show`` of them for pictures.

    With ``disturb`` the stability of a classifier is measured too, on at most 256 images, where
    the data have regions. Raises `InputError` as `look` does.
    """
    total = len(data.split)
    numbers = evenly(total, total if images is None else min(images, total))
    labels = labels_between(data.classes, subject.classes)

    def item(order: int) -> Item:
        marked = data.split[numbers[order]]
        label = None if marked.label is None or not labels else labels[marked.label]
        name = data.split.source(numbers[order])
        try:
            return subject.item(marked.image, marked.masks, data.regions, label, name)
        except (RuntimeError, ValueError) as problem:
            raise InputError(f"{name} cannot be prepared for the network: {problem}") from problem

    if isinstance(subject, Classifier):
        subject.expect(len(numbers))
    shown = evenly(len(numbers), min(show, len(numbers)))
    seen = look(
        subject,
        len(numbers),
        item,
        show=shown,
        batch_size=batch_size,
        maps=maps,
        skip_bad=skip_bad,
        progress=progress,
    )
    parts = data.parts or data.regions
    found = Explanation(data, subject.classes, seen, parts)
    for name in maps:
        tallies = seen.of(name)
        if not tallies:
            continue
        found.findings[name] = findings(tallies, data.regions, parts)
        found.own[name] = own_parts(found.findings[name], parts)
        score = part_score(tallies, data.regions, parts)
        if score is not None:
            found.scores[name] = score
    if disturb and data.regions and isinstance(subject, Classifier):
        some = evenly(len(numbers), min(_DISTURBED, len(numbers)))
        whole = data.regions.index(data.whole) if data.whole is not None else None
        found.stability.extend(
            stability(subject, len(some), lambda i: item(some[i]), whole, batch_size=batch_size)
        )
    return found


def evenly(count: int, chosen: int) -> list[int]:
    """So many numbers below ``count``, evenly spread."""
    return [round((i + 0.5) * count / chosen - 0.5) for i in range(chosen)]
