"""Through all images once: sums for the measures, and the maps of a few images to be shown."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sgekit.analysis.alignment import align, coverage
from sgekit.analysis.capture import GateRecord
from sgekit.analysis.survey import LayerSurvey
from sgekit.analysis.tally import FINEST, Tally
from sgekit.data.decode import threads
from sgekit.errors import InputError
from sgekit.explanation.subject import Item, Looked, Subject

MAPS = ("before", "gate", "after")


@dataclass(frozen=True)
class Shown:
    """One image that is shown, with the maps (G, h, w) of every layer, before and gate; ``inputs``
    (3, H, W) is what the network takes."""

    picture: Image.Image
    inputs: Tensor
    source: str
    label: int | None
    likeliest: int | None
    maps: Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class Seen:
    """What came of all images. ``tallies`` by layer and map; ``correct`` of ``labelled`` images."""

    surveys: dict[str, LayerSurvey] = field(default_factory=dict)
    tallies: dict[str, dict[str, Tally]] = field(default_factory=dict)
    shown: list[Shown] = field(default_factory=list)
    images: int = 0
    labelled: int = 0
    correct: int = 0
    skipped: list[str] = field(default_factory=list)

    def of(self, name: str) -> dict[str, Tally]:
        """The tallies of one of MAPS, by layer, those that counted anything."""
        found = {layer: tallies.get(name) for layer, tallies in self.tallies.items()}
        return {layer: tally for layer, tally in found.items() if tally is not None and tally.sums}


def look(
    subject: Subject,
    count: int,
    item: Callable[[int], Item],
    *,
    show: Sequence[int] = (),
    batch_size: int = 32,
    maps: Sequence[str] = MAPS,
    skip_bad: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Seen:
    """Look at ``count`` images, made by ``item`` in several threads, while the network runs.

    ``show`` are the numbers of those whose maps are kept; ``maps`` those of MAPS that are aligned,
    where the items have masks. Memory does not grow with ``count``. ``progress`` is told how many
    images each step took. With ``skip_bad`` items that raise InputError are named in ``skipped``.
    Raises InputError where nothing is left, or no watched layer has a map of two positions.
    """
    seen, wanted = Seen(), deque(sorted(show))
    generator = torch.Generator().manual_seed(0)
    for numbers, items in batches(count, item, batch_size, seen.skipped if skip_bad else None):
        done = 0
        for looked in subject.look(items):
            part = numbers[done : done + len(looked.items)]
            done += len(looked.items)
            _add(seen, subject, looked, part, wanted, maps, generator)
            if progress is not None:
                progress(len(looked.items))
    if seen.images == 0:
        raise InputError(f"none of {count} images can be read; name others")
    if not seen.surveys:
        raise InputError("every watched layer has maps of one position, where there is no where")
    return seen


def batches(
    count: int, item: Callable[[int], Item], batch_size: int, skipped: list[str] | None
) -> Generator[tuple[list[int], list[Item]]]:
    """Numbers and items, batch by batch; the next two are prepared while one is used."""
    starts = iter(range(0, count, batch_size))
    waiting: deque[tuple[range, list[Future[Item]]]] = deque()
    with ThreadPoolExecutor(min(4, threads())) as pool:

        def more() -> None:
            start = next(starts, None)
            if start is not None:
                numbers = range(start, min(count, start + batch_size))
                waiting.append((numbers, [pool.submit(item, number) for number in numbers]))

        more()
        more()
        try:
            while waiting:
                numbers, futures = waiting.popleft()
                kept: list[int] = []
                items: list[Item] = []
                for number, future in zip(numbers, futures, strict=True):
                    try:
                        items.append(future.result())
                        kept.append(number)
                    except InputError as problem:
                        if skipped is None:
                            raise
                        skipped.append(str(problem))
                more()
                if items:
                    yield kept, items
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _add(
    seen: Seen,
    subject: Subject,
    looked: Looked,
    numbers: Sequence[int],
    wanted: deque[int],
    maps: Sequence[str],
    generator: torch.Generator,
) -> None:
    items = looked.items
    labels = labels_of(items, len(subject.classes))
    masks = [item.masks for item in items if item.masks is not None]
    marked = len(masks) == len(items)
    guesses = None if looked.logits is None else looked.logits.argmax(1).cpu()
    if guesses is not None and labels is not None:
        seen.labelled += int((labels >= 0).sum())
        seen.correct += int((guesses == labels).sum())
    covers: dict[tuple[int, int], Tensor] = {}
    kept: dict[str, tuple[Tensor, Tensor]] = {}
    keep: list[int] = []
    for place, number in enumerate(numbers):
        if wanted and number >= wanted[0]:  # itself, or the next one that can be read
            wanted.popleft()
            keep.append(place)
    for name, record in looked.records.items():
        survey = seen.surveys.setdefault(name, LayerSurvey())
        survey.add(record, labels, len(subject.classes))
        if not (keep or marked):
            continue
        if marked:
            small = {key: pooled(getattr(record, key)) for key in MAPS}
            size = (small["gate"].shape[2], small["gate"].shape[3])
            if size not in covers:
                covers[size] = torch.stack([coverage(mask, size) for mask in masks])
            _align(seen, name, record, small, covers[size], maps, generator)
        if keep:
            kept[name] = (pooled(record.before[keep]).cpu(), pooled(record.gate[keep]).cpu())
    for order, place in enumerate(keep):
        guess = None if guesses is None else int(guesses[place])
        seen.shown.append(
            Shown(
                items[place].picture,
                items[place].inputs,
                items[place].source,
                items[place].label,
                guess,
                {name: (b[order].clone(), g[order].clone()) for name, (b, g) in kept.items()},
            )
        )
    seen.images += len(items)


def _align(
    seen: Seen,
    layer: str,
    record: GateRecord,
    small: Mapping[str, Tensor],
    cover: Tensor,
    maps: Sequence[str],
    generator: torch.Generator,
) -> None:
    tallies = seen.tallies.setdefault(layer, {})
    for name in maps:
        if name == "after" and record.kind == "similarity" and "before" in maps:
            continue  # the same
        found = align(small[name].cpu(), cover, generator)
        tallies.setdefault(name, Tally()).add(found, seen.images)


def labels_of(items: Iterable[Item], classes: int) -> Tensor | None:
    """The items' labels, (B,), -1 where the network doesn't know it; None where it knows none."""
    labels = [item.label for item in items]
    known = [-1 if label is None or label >= classes else label for label in labels]
    return torch.tensor(known) if any(label >= 0 for label in known) else None


def pooled(maps: Tensor) -> Tensor:
    """Maps (B, G, H, W) averaged to FINEST cells along the longer side, if they have more.

    So that what is kept and aligned of them is small.
    """
    height, width = maps.shape[2:]
    scale = max(height, width) / FINEST
    if scale <= 1:
        return maps
    size = (max(1, round(height / scale)), max(1, round(width / scale)))
    return adaptive_avg_pool2d(maps, size)
