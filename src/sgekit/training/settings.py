"""What to train, and where the run lives."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.recipes import Recipe


@dataclass(frozen=True)
class RunSettings:
    """What to train, from which start, and where the run lives on disk."""

    model: str
    attention: str
    recipe: Recipe | DetectionRecipe
    out: Path
    seed: int = 0
    groups: int | Literal["auto"] | None = None
    pretrained: bool = False
    workers: int | None = None
    device: str = "auto"
    resume: bool = False
    tensorboard: bool = True
    label: str = "train"
    detector: str | None = None
    """A detector's name; then ``model`` is its backbone."""
    fpn_attention: str | None = None
    """Attention on a detector's pyramid."""
    checkpoint: Path | None = None
    """Weights to start from: the network's; for a detector its backbone's, or a whole one's."""

    @property
    def classification(self) -> Recipe:
        """The recipe of a run without a detector."""
        if not isinstance(self.recipe, Recipe):
            raise TypeError(f"{self.recipe.name} is a detector's recipe")
        return self.recipe

    @property
    def detection(self) -> DetectionRecipe:
        """The recipe of a detector's run."""
        if not isinstance(self.recipe, DetectionRecipe):
            raise TypeError(f"{self.recipe.name} is no detector's recipe")
        return self.recipe

    def labelled(self, label: str) -> "RunSettings":
        """The same run under another name in the progress bar."""
        return replace(self, label=label)
