"""What a run remembers and shows: its curve, and a progress bar with images/s and time left."""

import time
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from torchmetrics import MeanMetric

from sgekit.training.checkpoint import KEY, TRAINING


class Curve(Callback):
    """One row an epoch: the training loss and what the task logs as `val_...`.

    Kept in the checkpoint, so resuming keeps it.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.seconds = 0.0
        self.train_seconds = 0.0
        self.train_images = 0
        self._images = 0
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = time.perf_counter()
        self._images = 0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.train_seconds += time.perf_counter() - self._began
            self.train_images += self._images

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        self.seconds += time.perf_counter() - self._began
        metrics = trainer.callback_metrics
        self.rows.append(
            {
                "epoch": pl_module.current_epoch + 1,
                "train_loss": float(cast(MeanMetric, pl_module.train_loss).compute()),
                **{name: float(v) for name, v in metrics.items() if name.startswith("val_")},
            }
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "seconds": self.seconds,
            "train_seconds": self.train_seconds,
            "train_images": self.train_images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = list(state_dict["rows"])
        self.seconds = state_dict["seconds"]
        self.train_seconds = state_dict["train_seconds"]
        self.train_images = state_dict["train_images"]


class Sign(Callback):
    """Writes into every checkpoint which network it is of, and how it is trained."""

    def __init__(self, identity: dict[str, Any], training: dict[str, Any]) -> None:
        self.identity, self.training = identity, training

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[KEY] = self.identity
        checkpoint[TRAINING] = self.training


class Bar(Callback):
    """Shows a run's progress: a live bar in a terminal, a line an epoch elsewhere."""

    def __init__(self, console: Console, label: str, curve: Curve) -> None:
        self.console, self.label, self.curve = console, label, curve
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._steps = 0
        self._images = 0
        self._began = 0.0
        self._first = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epochs = trainer.max_epochs or 0
        self._began, self._images, self._first = (
            time.perf_counter(),
            0,
            trainer.current_epoch,
        )
        if self.console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[speed]}"),
                TimeRemainingColumn(),
                console=self.console,
                transient=True,
            )
            total = int(trainer.num_training_batches) * epochs
            done = int(trainer.num_training_batches) * trainer.current_epoch
            self._task = self._progress.add_task(self.label, total=total, completed=done, speed="")
            self._progress.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        self._images += len(batch[0]) * trainer.world_size
        if self._progress is not None:
            speed = self._images / (time.perf_counter() - self._began)
            self._progress.update(
                self._task,
                advance=1,
                description=f"{self.label} · epoch {pl_module.current_epoch + 1}",
                speed=_speed(speed),
            )

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._progress is not None or not self.curve.rows or trainer.sanity_checking:
            return
        row = self.curve.rows[-1]
        seconds = time.perf_counter() - self._began
        done = int(row["epoch"])
        left = seconds / max(1, done - self._first) * ((trainer.max_epochs or done) - done)
        self.console.print(
            f"{self.label} · epoch {done}/{trainer.max_epochs} · loss {row['train_loss']:.3f} · "
            f"{_headline(pl_module, row)} · {_speed(self._images / seconds)} · "
            f"{_clock(left)} left",
            highlight=False,
        )

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._stop()


def _headline(task: Any, row: dict[str, float]) -> str:
    name = {"val_top1": "top-1", "val_ap": "AP"}.get(task.monitor, task.monitor)
    return f"{name} {100 * row[task.monitor]:.1f} %"


def _speed(images_per_s: float) -> str:
    digits = 0 if images_per_s >= 10 else 1
    return f"{images_per_s:,.{digits}f} images/s"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
