"""The engine of every training run: Lightning, with our checkpoints, bars and interruptions."""

import logging
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console

from sgekit.errors import InputError
from sgekit.training.callbacks import Bar, Curve, Sign
from sgekit.training.checkpoint import (
    TRAINING,
    AtomicCheckpointIO,
    identity_of,
    read_checkpoint,
)
from sgekit.training.machine import explain_batch_norm, resolve_device, world_and_rank
from sgekit.training.settings import RunSettings
from sgekit.training.task import Task

PRECISIONS: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


class Who(Protocol):
    """What a checkpoint is of."""

    def plain(self) -> dict[str, Any]:
        """As it stands in the checkpoint."""
        ...

    def differences(self, other: Any) -> str:
        """In words, where another network departs from this one; empty if nowhere."""
        ...


def fit(
    task: Task,
    train: Any,
    val: Any,
    settings: RunSettings,
    who: Who,
    training: dict[str, Any],
    console: Console | None,
    *,
    sync_norms: bool,
) -> Curve:
    """Train and evaluate after every epoch; from last.ckpt where the run has one.

    Leaves in ``settings.out``: last.ckpt, best.ckpt (by the task's monitor; the earlier of
    equals), and logs/ (CSV and TensorBoard). ``who`` and ``training`` go into every checkpoint.
    """
    recipe, curve = settings.recipe, Curve()
    last = settings.out / "last.ckpt"
    with quiet(), _interruptible(), explain_batch_norm():
        trainer = make_trainer(
            resolve_device(settings.device),
            precision=PRECISIONS[recipe.precision],
            max_epochs=recipe.epochs,
            accumulate_grad_batches=recipe.accumulate,
            gradient_clip_val=recipe.clip_grad_norm or None,
            sync_batchnorm=sync_norms and world_and_rank()[0] > 1,
            callbacks=_callbacks(task, settings, who, training, curve, console),
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
    return curve


def resumed_epoch(settings: RunSettings, who: Who, training: dict[str, Any]) -> int:
    """Make the run's folder, and tell the epoch to go on with.

    Raises InputError unless the run in the way, if any, is this very run.
    """
    settings.out.mkdir(parents=True, exist_ok=True)
    last = settings.out / "last.ckpt"
    if not last.exists():
        return 0
    if not settings.resume:
        raise InputError(
            f"{settings.out} already holds a run; add --resume to go on with it, "
            "or choose another --out"
        )
    saved = read_checkpoint(last)
    if words := who.differences(identity_of(saved, last)):
        raise InputError(f"{last} is of another network: this run has {words}")
    then = saved.get(TRAINING)
    if not isinstance(then, dict):
        raise InputError(f"{last} does not say how it was trained; choose another --out")
    if changed := [name for name, value in training.items() if then.get(name) != value]:
        texts = [f"{name} was {then.get(name)}, now {training[name]}" for name in changed[:4]]
        raise InputError(
            f"{last} was trained otherwise ({'; '.join(texts)}); resume with the same "
            "settings or choose another --out"
        )
    return int(saved["epoch"]) + 1


def _callbacks(
    task: Task,
    settings: RunSettings,
    who: Who,
    training: dict[str, Any],
    curve: Curve,
    console: Console | None,
) -> list[Callback]:
    callbacks: list[Callback] = [curve, Sign(who.plain(), training)]
    if world_and_rank()[1] == 0:
        callbacks.append(Bar(console or Console(stderr=True), settings.label, curve))
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

    return [*callbacks, keep("best", task.monitor), keep("last", None)]


def _loggers(settings: RunSettings) -> list[Any]:
    table = CSVLogger(settings.out, name="logs")
    if not settings.tensorboard:
        return [table]
    version = f"version_{table.version}"
    return [table, TensorBoardLogger(settings.out, name="logs", version=version)]


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
