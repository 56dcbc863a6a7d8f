"""What is to be compared, and the folder that remembers how far it has come."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

from sgekit.comparison.results import Run
from sgekit.comparison.sweep import Sweep
from sgekit.data import ImageData
from sgekit.data.detection import DetectionData
from sgekit.errors import InputError
from sgekit.files import write_atomic
from sgekit.models.contender import parse
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.recipes import Recipe
from sgekit.training.settings import RunSettings

FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """Contenders × seeds, all with one recipe on one data set; the first contender is the baseline
    unless "none" is among them. ``attention`` holds contenders as `sgekit.models.contender` has
    them; ``sweep`` says which of them differ in what."""

    model: str
    attention: tuple[str, ...]
    seeds: tuple[int, ...]
    recipe: Recipe | DetectionRecipe
    groups: int | Literal["auto"] | None = None
    pretrained: bool = False
    workers: int | None = None
    device: str = "auto"
    detector: str | None = None
    fpn_attention: str | None = None
    checkpoint: Path | None = None
    sweep: Sweep | None = None

    def __post_init__(self) -> None:
        # One text a contender, so that runs are found again however it was typed.
        texts = tuple(parse(text).text for text in self.attention)
        object.__setattr__(self, "attention", texts)
        for what, values in (("--attention", self.attention), ("--seeds", self.seeds)):
            if not values:
                raise InputError(f"{what} is empty: name at least one")
            if len(set(values)) != len(values):
                raise InputError(f"{what} names something twice: {', '.join(map(str, values))}")

    @property
    def baseline(self) -> str:
        return "none" if "none" in self.attention else self.attention[0]

    def runs(self, out: Path) -> list[RunSettings]:
        """Every run, seed by seed, so that an interrupted comparison holds whole pairs."""
        return [
            RunSettings(
                model=self.model,
                attention=attention,
                recipe=self.recipe,
                out=out / "runs" / f"{attention}-seed{seed}",
                seed=seed,
                groups=self.groups,
                pretrained=self.pretrained,
                workers=self.workers,
                device=self.device,
                resume=True,
                tensorboard=False,
                label=f"{attention} · seed {seed}",
                detector=self.detector,
                fpn_attention=self.fpn_attention,
                checkpoint=self.checkpoint,
            )
            for seed in self.seeds
            for attention in self.attention
        ]


def extended(plan: Plan, out: Path) -> Plan:
    """The plan with the contenders and seeds of runs that have already ended in ``out``."""
    ended = [file.parent.name.rpartition("-seed") for file in out.glob("runs/*-seed*/run.json")]
    attention = dict.fromkeys([*plan.attention, *sorted(name for name, _, _ in ended)])
    seeds = {*plan.seeds, *(int(seed) for _, _, seed in ended)}
    return replace(plan, attention=tuple(attention), seeds=tuple(sorted(seeds)))


def fixed_part(plan: Plan, data: ImageData | DetectionData, path: str | None) -> dict[str, Any]:
    """What may not change when a comparison goes on; seeds and contenders may be added."""
    start = plan.checkpoint and str(plan.checkpoint.resolve())
    own: dict[str, Any] = {}
    if plan.detector:
        own = {"detector": plan.detector, "fpn_attention": plan.fpn_attention, "checkpoint": start}
    elif start:
        own = {"checkpoint": start}
    return {
        **own,
        "model": plan.model,
        "groups": plan.groups,
        "pretrained": plan.pretrained,
        "recipe": plan.recipe.flat(),
        "data": {
            "name": data.name,
            "path": path and str(Path(path).resolve()),
            "classes": list(data.classes),
            "train": len(data.train),
            "val": len(data.val),
            "val_name": data.val_name,
        },
    }


def default_out(fixed: dict[str, Any]) -> Path:
    """A folder of the comparison's own: the same settings always lead to the same folder."""
    digest = hashlib.sha256(json.dumps(fixed, sort_keys=True).encode()).hexdigest()[:8]
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in fixed["data"]["name"])
    return Path("runs") / f"compare-{name}-{fixed['model']}-{digest}"


def claim(out: Path, fixed: dict[str, Any]) -> None:
    """Mark the folder as this comparison's.

    Raises InputError if it holds another one, saying where the settings differ.
    """
    file = out / FILE
    if not file.exists():
        write_atomic(file, (json.dumps(fixed, indent=2) + "\n").encode())
        return
    try:
        there = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({error}); choose another --out") from error
    if not isinstance(there, dict):
        raise InputError(f"{file} is no comparison's plan; choose another --out")
    differing = _differences(there, fixed)
    if differing:
        raise InputError(
            f"{out} holds a comparison with other settings ({'; '.join(differing[:4])}); "
            "choose another --out"
        )


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        return [
            text
            for key in sorted(there.keys() | here.keys())
            for text in _differences(
                there.get(key), here.get(key), f"{name}.{key}" if name else str(key)
            )
        ]
    if there == here:
        return []
    if isinstance(there, list) or isinstance(here, list):
        return [f"{name} differs"]
    return [f"{name} was {there}, now {here}"]


def finished(settings: RunSettings) -> Run | None:
    """The result of a run that has already ended, or None."""
    file = settings.out / "run.json"
    if not file.exists():
        return None
    try:
        run = json.loads(file.read_text())
        metric = {"ap", "scores"} if settings.detector else {"top1", "loss"}
        if not {"seed", "epochs", "curve", *metric} <= run.keys():
            raise ValueError("it lacks a run's fields")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            f"{file} cannot be read ({error}); delete {settings.out} to train this run again"
        ) from error
    return cast(Run, run)
