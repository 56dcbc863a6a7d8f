"""What a layer's groups do over a whole data set, in memory that does not grow with it."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sgekit.analysis.capture import GateRecord
from sgekit.analysis.selectivity import selectivity_of_images

BINS = 120
# Bins reach this far beyond the first images' largest length; what lies beyond is in the last.
_ROOM = 1.25
# Of every so many lengths one is put into the histogram, which tells its shape as well.
_STRIDE = 8


@dataclass
class LayerSurvey:
    """Sums over images and positions of one layer of G groups, added up batch by batch."""

    kind: str = "gate"
    images: int = 0
    positions: int = 0
    """Of all the images together; maps of detectors differ in size."""
    size: tuple[int, int] = (0, 0)
    """(H, W) of the largest map."""
    sums: dict[str, Tensor] = field(default_factory=dict)
    histogram: dict[str, Tensor] = field(default_factory=dict)
    top: float = 0.0
    """Where the histogram's bins, BINS from 0, end."""
    by_class: Tensor | None = None
    class_images: Tensor | None = None

    def add(self, record: GateRecord, labels: Tensor | None = None, classes: int = 0) -> None:
        """Count a batch of maps (B, G, H, W); labels (B,) of ``classes`` classes, -1 for
        an image whose class is not known."""
        batch, _, *spatial = record.gate.shape
        height, width = spatial[0], spatial[-1]
        if height * width > self.size[0] * self.size[1]:
            self.size = (height, width)
        self.kind = record.kind
        self.images += batch
        self.positions += batch * height * width
        gate = record.gate.flatten(2)
        self._sum("selectivity", selectivity_of_images(record.gate).sum(0))
        self._sum("gate", gate.mean(2).sum(0))
        self._sum("lowest", gate.amin(2).sum(0))
        self._sum("highest", gate.amax(2).sum(0))
        for name, lengths in (("before", record.before), ("after", record.after)):
            flat = lengths.flatten(2)
            self._sum(name, flat.sum(2).double().sum(0))
            norms = torch.linalg.vector_norm(flat, dim=2).double()
            self._sum(f"{name}_squares", norms.square().sum(0))
        self._count(record)
        if labels is not None:
            self._classes(record.after, labels, classes)

    def mean(self, name: str) -> Tensor:
        """(G,) over the images: "selectivity", "gate", "lowest" or "highest"."""
        return self.sums[name] / max(1, self.images)

    def variance(self, name: str) -> Tensor:
        """(G,) of the lengths "before" or "after" over all positions of all images."""
        mean = self.sums[name] / self.positions
        return (self.sums[f"{name}_squares"] / self.positions - mean.square()).clamp_min(0)

    def class_means(self) -> Tensor | None:
        """(K, G): the mean length after, over positions and the images of each class."""
        if self.by_class is None or self.class_images is None:
            return None
        return self.by_class / self.class_images.clamp_min(1)[:, None]

    def _sum(self, name: str, values: Tensor) -> None:
        values = values.double().cpu()
        self.sums[name] = self.sums[name] + values if name in self.sums else values

    def _count(self, record: GateRecord) -> None:
        if not self.top:
            largest = float(torch.maximum(record.before.amax(), record.after.amax()))
            self.top = _ROOM * largest if largest > 0 else 1.0
        for name, lengths in (("before", record.before), ("after", record.after)):
            some = lengths.flatten()[::_STRIDE].float().clamp(0, self.top)
            counts = torch.histc(some.cpu(), BINS, 0, self.top).double()
            self.histogram[name] = self.histogram.get(name, torch.zeros(BINS).double()) + counts

    def _classes(self, after: Tensor, labels: Tensor, classes: int) -> None:
        means = after.flatten(2).mean(2).double().cpu()
        if self.by_class is None or self.class_images is None:
            self.by_class = torch.zeros(classes, means.shape[1], dtype=torch.float64)
            self.class_images = torch.zeros(classes, dtype=torch.float64)
        known = labels.cpu() >= 0
        labels, means = labels.cpu()[known], means[known]
        self.by_class.index_add_(0, labels, means)
        self.class_images += torch.bincount(labels, minlength=classes)


def class_selectivity(means: Tensor, images: Tensor) -> Tensor:
    """(G,) between 0 and 1, from the mean activation (K, G) of every class.

    (a - b) / (a + b), a the largest class mean and b the mean of the others: 0 for a group that
    answers to all classes alike, 1 for one that answers to a single class ("On the importance of
    single directions for generalization", arXiv 1803.06959, appendix A). Classes without images
    are left out; 0 where fewer than two have any.
    """
    known = means[images > 0]
    if len(known) < 2:
        return torch.zeros(means.shape[1], dtype=means.dtype)
    top = known.amax(0)
    rest = (known.sum(0) - top) / (len(known) - 1)
    return (top - rest) / (top + rest).clamp_min(torch.finfo(means.dtype).tiny)
