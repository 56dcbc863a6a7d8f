"""Image classification as a Lightning task."""

from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from timm.data.mixup import Mixup
from timm.optim._optim_factory import create_optimizer_v2
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.scheduler_factory import create_scheduler_v2
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy

from sgekit.errors import InputError
from sgekit.training.cached import Prepare
from sgekit.training.loaders import derived_seed, seed_everything
from sgekit.training.recipes import Recipe

Batch = tuple[Tensor, Tensor]


class NonFiniteLossError(InputError):
    """The training loss became NaN or infinite; ``step`` is the optimiser step where it did."""

    def __init__(self, step: int, epoch: int) -> None:
        super().__init__(
            f"the training loss is not finite at step {step} (epoch {epoch + 1}); the last good "
            "checkpoint is kept; try a smaller --lr, --set clip_grad_norm=5 or precision fp32"
        )
        self.step = step


class Task(LightningModule):
    """What every task of ours does: seeds its epochs, and stops where the loss is no number.

    ``monitor`` names the metric that decides which checkpoint is the best; larger is better.
    """

    monitor: str
    seed: int
    frozen_norms: bool

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed
        self.train_loss = MeanMetric()
        self.frozen_norms = False
        self._bad_step: Tensor | None = None

    def on_train_epoch_start(self) -> None:
        # The state of every epoch follows from the seed, so a resumed run repeats it exactly.
        seed_everything(derived_seed(self.seed, self.current_epoch, self.global_rank, 1))
        if self.frozen_norms:
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def note_loss(self, loss: Tensor, images: int) -> None:
        """Count a step's loss; remember the first bad one without waiting for the device."""
        if self._bad_step is None:
            self._bad_step = torch.full((), -1, device=loss.device, dtype=torch.long)
        bad = ~torch.isfinite(loss.detach()) & (self._bad_step < 0)
        self._bad_step = torch.where(bad, self.global_step, self._bad_step)
        if self.global_step % 20 == 0:
            self.raise_if_not_finite()
        self.train_loss.update(loss.detach(), images)

    def raise_if_not_finite(self) -> None:
        """Raise NonFiniteLossError on every process if any has seen a bad loss."""
        if self._bad_step is None:
            return
        step = self._bad_step
        if self.trainer.world_size > 1:
            step = torch.as_tensor(self.all_gather(step)).max()
        if step >= 0:
            raise NonFiniteLossError(int(step), self.current_epoch)

    def on_train_epoch_end(self) -> None:
        self.raise_if_not_finite()
        # A resumed run ends once more the epoch that it was saved in, without a step in it.
        if self.train_loss.update_called:
            self.log("train_loss", self.train_loss)

    def on_validation_epoch_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.FITTING:
            self.raise_if_not_finite()


class ClassificationTask(Task):
    """Trains and evaluates one network on labelled images of shape (B, 3, S, S)."""

    monitor = "val_top1"

    def __init__(self, model: nn.Module, recipe: Recipe, num_classes: int, seed: int) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        self.num_classes = num_classes
        self.frozen_norms = recipe.bn == "frozen"
        self.val_loss = MeanMetric()
        self.top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro")
        self.top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")
        self.mixup = (
            Mixup(  # type: ignore[no-untyped-call]
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                label_smoothing=recipe.label_smoothing,
                num_classes=num_classes,
            )
            if recipe.mixup or recipe.cutmix
            else None
        )
        self.prepare = Prepare()
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)
        if recipe.compile:
            model.compile()

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes)."""
        if self.recipe.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.model(images)
        return logits

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Batch:
        prepared: Batch = self.prepare(batch)
        return prepared

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, labels = batch
        if self.mixup is not None:
            images, targets = self.mixup(images, labels)
            loss = F.cross_entropy(self(images).float(), targets)
        else:
            loss = F.cross_entropy(
                self(images).float(),
                labels,
                label_smoothing=self.recipe.label_smoothing,
            )
        self.note_loss(loss, images.shape[0])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, labels = batch
        logits = self(images).float()
        self.val_loss.update(F.cross_entropy(logits, labels), images.shape[0])
        self.top1.update(logits, labels)
        self.top5.update(logits, labels)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.val_loss)
        self.log("val_top1", self.top1)
        self.log("val_top5", self.top5)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=not recipe.decay_norm_and_bias,
        )
        updates = max(1, int(self.trainer.estimated_stepping_batches) // recipe.epochs)
        scheduler, _ = create_scheduler_v2(
            optimizer,
            sched=recipe.schedule,
            num_epochs=recipe.epochs,
            decay_milestones=list(recipe.milestones),
            decay_rate=recipe.decay_rate,
            min_lr=recipe.min_lr,
            warmup_lr=recipe.peak_lr / 100,
            warmup_epochs=recipe.warmup_epochs,
            step_on_epochs=False,
            updates_per_epoch=updates,
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:  # type: ignore[override]
        scheduler.step_update(num_updates=self.global_step)
