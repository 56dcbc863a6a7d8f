"""From settings to a finished classification run: one function."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from torch import nn

from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.models import build
from sgekit.models.checkpoints import classes_in, load_contents, read_weights
from sgekit.models.contender import parse
from sgekit.training.cached import CachedSamples, cached_training, whole
from sgekit.training.callbacks import Curve
from sgekit.training.checkpoint import Identity
from sgekit.training.engine import fit, resumed_epoch
from sgekit.training.loaders import (
    EvalBatches,
    Samples,
    TrainBatches,
    eval_picture,
    eval_transform,
    loader,
    seed_everything,
    train_transform,
)
from sgekit.training.machine import (
    check_hardware,
    default_workers,
    resolve_device,
    world_and_rank,
)
from sgekit.training.recipes import Recipe
from sgekit.training.settings import RunSettings
from sgekit.training.task import ClassificationTask


@dataclass(frozen=True)
class RunResult:
    """How a run ended; accuracies are fractions on the evaluation split."""

    seed: int
    top1: float
    top5: float
    loss: float
    best_top1: float
    best_epoch: int
    epochs: int
    seconds: float
    train_images_per_s: float
    curve: list[dict[str, float]]

    def plain(self) -> dict[str, Any]:
        return dict(self.__dict__)


def build_extras(recipe: Recipe) -> dict[str, Any]:
    """What a recipe asks of the network's constructor."""
    extra: dict[str, Any] = {}
    if recipe.drop_path:
        extra["drop_path_rate"] = recipe.drop_path
    if not recipe.zero_init_last:
        extra["zero_init_last"] = False
    return extra


def build_network(settings: RunSettings, num_classes: int) -> nn.Module:
    """The network at its start; what networks with one seed share starts at the same values."""
    seed_everything(settings.seed)
    return build(
        settings.model,
        settings.attention,
        groups=settings.groups,
        num_classes=num_classes,
        pretrained=settings.pretrained,
        # Weights that are loaded into it are kept from changing its function there.
        preserve=False if settings.checkpoint is not None else None,
        **build_extras(settings.classification),
    )


def load_start(network: nn.Module, settings: RunSettings, classes: tuple[str, ...]) -> str:
    """Load ``settings.checkpoint`` into the network; returns what was done, in words.

    A plain network's weights leave one with attention computing what it did, where the attention
    can. The file's classifier is left out where it is known to be of other classes or has
    another number of them. Raises InputError where the file doesn't fit.
    """
    if settings.pretrained:
        raise InputError("--pretrained and --init both name weights to start from; give one")
    contents = read_weights(str(settings.checkpoint))
    known = (contents.identity or {}).get("classes")
    same = tuple(known) == classes if isinstance(known, list | tuple) else True
    same = same and classes_in(contents, network) == len(classes)
    preserve = parse(settings.attention).preserves
    load_contents(network, contents, preserve=preserve, head="load" if same else "keep")
    ending = "with its classifier" if same else "with a new classifier"
    return f"starting from {settings.checkpoint}, {ending}"


def identity(settings: RunSettings, classes: tuple[str, ...]) -> Identity:
    recipe = settings.classification
    return Identity(
        model=settings.model,
        attention=settings.attention,
        groups=settings.groups,
        classes=classes,
        image_size=recipe.image_size,
        eval_crop=recipe.eval_crop,
        interpolation=recipe.interpolation,
    )


def run(settings: RunSettings, data: ImageData, console: Console | None = None) -> RunResult:
    """Train one network and evaluate it after every epoch.

    Leaves in ``settings.out``: last.ckpt, best.ckpt (by accuracy; the earlier of equals),
    and logs/ (CSV and TensorBoard). With ``resume`` it goes on from last.ckpt,
    to the same weights that an uninterrupted run reaches. Raises InputError on bad
    settings or files, NonFiniteLossError when the loss stops being a number.
    """
    recipe = settings.classification
    accelerator = resolve_device(settings.device)
    check_hardware(recipe, accelerator)
    who, training = identity(settings, data.classes), training_of(settings, data)
    epoch = resumed_epoch(settings, who, training)
    classes = len(data.classes)
    network = build_network(settings, classes)
    if settings.checkpoint is not None:
        words = load_start(network, settings, data.classes)
        if console is not None and epoch == 0 and world_and_rank()[1] == 0:
            console.print(words, highlight=False)
    task = ClassificationTask(network, recipe, classes, settings.seed)
    workers = default_workers(settings.device) if settings.workers is None else settings.workers
    pin = accelerator == "cuda"
    curve = fit(
        task,
        training_loader(data, settings, workers, pin, epoch),
        evaluation_loader(data, who, recipe.batch_size, workers, pin, cache=recipe.cache),
        settings,
        who,
        training,
        console,
        sync_norms=recipe.bn == "sync",
    )
    return _result(settings.seed, curve)


def training_of(settings: RunSettings, data: ImageData) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had not stopped."""
    images = f"{data.name}, {len(data.train)} + {len(data.val)} images"
    start = settings.checkpoint and str(settings.checkpoint.resolve())
    return settings.recipe.flat() | {"seed": settings.seed, "data": images, "init": start}


def _result(seed: int, curve: Curve) -> RunResult:
    rows = curve.rows
    best = max(rows, key=lambda row: row["val_top1"])
    return RunResult(
        seed=seed,
        top1=rows[-1]["val_top1"],
        top5=rows[-1]["val_top5"],
        loss=rows[-1]["val_loss"],
        best_top1=best["val_top1"],
        best_epoch=int(best["epoch"]),
        epochs=len(rows),
        seconds=curve.seconds,
        train_images_per_s=curve.train_images / max(curve.train_seconds, 1e-9),
        curve=rows,
    )


def training_loader(
    data: ImageData, settings: RunSettings, workers: int, pin_memory: bool, epoch: int
) -> Any:
    """This process's share of every training batch, beginning with ``epoch``."""
    recipe, (world, rank) = settings.classification, world_and_rank()
    share = recipe.batch_size // (world * recipe.accumulate)
    if (recipe.mixup or recipe.cutmix) and share % 2:
        raise InputError(
            f"mixup and cutmix mix images in pairs, but each of {world} processes has {share} "
            "images a step; use a --batch-size that gives an even number"
        )
    batches = TrainBatches(
        len(data.train), recipe.batch_size, settings.seed, rank, world, recipe.accumulate
    )
    # Workers fetch ahead before Lightning tells the epoch of a resumed run.
    batches.set_epoch(epoch)
    if recipe.cache:
        cached = cached_training(data.train, recipe, settings.seed, workers)
        return loader(cached, batches, 0, pin_memory, whole)
    samples = Samples(data.train, train_transform(recipe), settings.seed)
    return loader(samples, batches, workers, pin_memory)


def evaluation_loader(
    data: ImageData,
    who: Identity,
    batch_size: int,
    workers: int,
    pin_memory: bool,
    *,
    cache: bool = False,
) -> Any:
    """Every evaluation image once over all processes, as the network wants it."""
    world, rank = world_and_rank()
    batches = EvalBatches(len(data.val), max(1, batch_size // world), rank, world)
    size = who.image_size
    if cache:
        picture = eval_picture(size, who.eval_crop, who.interpolation)
        return loader(
            CachedSamples(data.val, picture, size, workers), batches, 0, pin_memory, whole
        )
    samples = Samples(data.val, eval_transform(size, who.eval_crop, who.interpolation), seed=None)
    return loader(samples, batches, workers, pin_memory)
