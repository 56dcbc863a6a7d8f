"""From settings to a finished run: one function."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from torch import nn

from sgekit.data import ImageData
from sgekit.errors import InputError
from sgekit.models import build
from sgekit.training.callbacks import Bar, Curve, Sign
from sgekit.training.checkpoint import (
    TRAINING,
    AtomicCheckpointIO,
    Identity,
    identity_of,
    read_checkpoint,
)
from sgekit.training.loaders import (
    EvalBatches,
    Samples,
    TrainBatches,
    eval_transform,
    loader,
    seed_everything,
    train_transform,
)
from sgekit.training.machine import (
    check_hardware,
    default_workers,
    explain_batch_norm,
    resolve_device,
    world_and_rank,
)
from sgekit.training.recipes import Recipe
from sgekit.training.task import ClassificationTask

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


@dataclass(frozen=True)
class RunSettings:
    """What to train, from which start, and where the run lives on disk."""

    model: str
    attention: str
    recipe: Recipe
    out: Path
    seed: int = 0
    groups: int | Literal["auto"] | None = None
    pretrained: bool = False
    workers: int | None = None
    device: str = "auto"
    resume: bool = False
    tensorboard: bool = True
    label: str = "train"

    def labelled(self, label: str) -> "RunSettings":
        """The same run under another name in the progress bar."""
        return replace(self, label=label)


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
        **build_extras(settings.recipe),
    )


def identity(settings: RunSettings, classes: tuple[str, ...]) -> Identity:
    recipe = settings.recipe
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
    recipe = settings.recipe
    accelerator = resolve_device(settings.device)
    check_hardware(recipe, accelerator)
    who = identity(settings, data.classes)
    settings.out.mkdir(parents=True, exist_ok=True)
    last = settings.out / "last.ckpt"
    epoch = _check_resumable(last, settings, who, data) if last.exists() else 0
    classes = len(data.classes)
    task = ClassificationTask(build_network(settings, classes), recipe, classes, settings.seed)
    curve = Curve()
    workers = default_workers(settings.device) if settings.workers is None else settings.workers
    pin = accelerator == "cuda"
    train = training_loader(data, settings, workers, pin, epoch)
    val = evaluation_loader(data, who, recipe.batch_size, workers, pin)
    with quiet(), _interruptible(), explain_batch_norm():
        trainer = make_trainer(
            accelerator,
            precision=PRECISIONS[recipe.precision],
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_grad_norm or None,
            sync_batchnorm=recipe.bn == "sync" and world_and_rank()[0] > 1,
            callbacks=_callbacks(settings, who, data, curve, console or Console(stderr=True)),
            logger=_loggers(settings),
            log_every_n_steps=20,
            num_sanity_val_steps=0,
        )
        try:
            trainer.fit(task, train, val, ckpt_path=str(last) if last.exists() else None)
        except SystemExit as error:
            # Lightning turns Ctrl-C into an exit of the whole program; callers want to know.
            if trainer.interrupted:
                raise KeyboardInterrupt from error
            raise
    return _result(settings.seed, curve)


def _check_resumable(last: Path, settings: RunSettings, who: Identity, data: ImageData) -> int:
    """The epoch to go on with; InputError unless the run in the way is this very run."""
    if not settings.resume:
        raise InputError(
            f"{settings.out} already holds a run; add --resume to go on with it, "
            "or choose another --out"
        )
    saved = read_checkpoint(last)
    if words := who.differences(identity_of(saved, last)):
        raise InputError(f"{last} is of another network: this run has {words}")
    then, now = saved.get(TRAINING), training_of(settings, data)
    if not isinstance(then, dict):
        raise InputError(f"{last} does not say how it was trained; choose another --out")
    if changed := [name for name, value in now.items() if then.get(name) != value]:
        texts = [f"{name} was {then.get(name)}, now {now[name]}" for name in changed[:4]]
        raise InputError(
            f"{last} was trained otherwise ({'; '.join(texts)}); resume with the same "
            "settings or choose another --out"
        )
    return int(saved["epoch"]) + 1


def training_of(settings: RunSettings, data: ImageData) -> dict[str, Any]:
    """What must be the same for a run to go on as if it had not stopped."""
    images = f"{data.name}, {len(data.train)} + {len(data.val)} images"
    return settings.recipe.flat() | {"seed": settings.seed, "data": images}


def _callbacks(
    settings: RunSettings, who: Identity, data: ImageData, curve: Curve, console: Console
) -> list[Callback]:
    callbacks: list[Callback] = [curve, Sign(who, training_of(settings, data))]
    if world_and_rank()[1] == 0:
        callbacks.append(Bar(console, settings.label, curve))
    if settings.recipe.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=settings.recipe.ema_decay))

    # Behind the others, so that what is saved holds what they have noted of the epoch. Two,
    # because one with a metric and save_last writes last.ckpt only where the metric improves.
    def keep(filename: str, monitor: str | None) -> ModelCheckpoint:
        return ModelCheckpoint(
            dirpath=settings.out,
            filename=filename,
            monitor=monitor,
            mode="max",
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )

    return [*callbacks, keep("best", "val_top1"), keep("last", None)]


def _loggers(settings: RunSettings) -> list[Any]:
    table = CSVLogger(settings.out, name="logs")
    if not settings.tensorboard:
        return [table]
    version = f"version_{table.version}"
    return [table, TensorBoardLogger(settings.out, name="logs", version=version)]


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
    recipe, (world, rank) = settings.recipe, world_and_rank()
    share = recipe.batch_size // (world * recipe.accumulate)
    if (recipe.mixup or recipe.cutmix) and share % 2:
        raise InputError(
            f"mixup and cutmix mix images in pairs, but each of {world} processes has {share} "
            "images a step; use a --batch-size that gives an even number"
        )
    samples = Samples(data.train, train_transform(recipe), settings.seed)
    batches = TrainBatches(
        len(data.train), recipe.batch_size, settings.seed, rank, world, recipe.accumulate
    )
    # Workers fetch ahead before Lightning tells the epoch of a resumed run.
    batches.set_epoch(epoch)
    return loader(samples, batches, workers, pin_memory)


def evaluation_loader(
    data: ImageData, who: Identity, batch_size: int, workers: int, pin_memory: bool
) -> Any:
    """Every evaluation image once over all processes, as the network wants it."""
    world, rank = world_and_rank()
    samples = Samples(
        data.val,
        eval_transform(who.image_size, who.eval_crop, who.interpolation),
        seed=None,
    )
    return loader(
        samples,
        EvalBatches(len(data.val), max(1, batch_size // world), rank, world),
        workers,
        pin_memory,
    )


def make_trainer(accelerator: str, **options: Any) -> Trainer:
    """A Lightning trainer that takes its processes from torchrun, if there are any."""
    world, _ = world_and_rank()
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Trainer(
        accelerator=accelerator,
        devices=local,
        num_nodes=max(1, world // local),
        strategy="ddp" if world > 1 else "auto",
        plugins=[AtomicCheckpointIO()],
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        **options,
    )


@contextmanager
def _interruptible() -> Iterator[None]:
    """Give Ctrl-C its meaning back: Lightning leaves it ignored once it was pressed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's banners and its advice on loaders and logging out of the way."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
            warnings.filterwarnings("ignore", category=FutureWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
