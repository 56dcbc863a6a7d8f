"""Detection as a Lightning task."""

import bisect
import math
from typing import Any

import torch
import torch.distributed as dist
from timm.optim._optim_factory import create_optimizer_v2
from torch import Tensor, nn

from sgekit.detection.evaluation import CocoEvaluation, DetectionScores
from sgekit.training.detection_recipes import DetectionRecipe
from sgekit.training.task import Task

Batch = tuple[list[Tensor], list[dict[str, Any]]]


class DetectionTask(Task):
    """Trains a detector, and evaluates it as COCO does."""

    monitor = "val_ap"

    def __init__(
        self,
        model: nn.Module,
        recipe: DetectionRecipe,
        ground_truth: dict[str, Any],
        masks: bool,
        seed: int,
    ) -> None:
        super().__init__(model, seed)
        self.recipe = recipe
        self.ground_truth, self.masks = ground_truth, masks
        self.evaluation = CocoEvaluation(ground_truth, masks)
        self.scores: DetectionScores | None = None
        if recipe.channels_last:
            model.to(memory_format=torch.channels_last)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        images, targets = batch
        losses: dict[str, Tensor] = self.model(images, targets)
        loss = torch.stack([part.float() for part in losses.values()]).sum()
        self.note_loss(loss, len(images))
        return loss

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.evaluation = CocoEvaluation(self.ground_truth, self.masks)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        images, targets = batch
        found = self.model(images)
        cpu = [{name: value.float().cpu() for name, value in one.items()} for one in found]
        self.evaluation.update([target["image_id"] for target in targets], cpu)

    def on_validation_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            states: list[Any] = [None] * self.trainer.world_size
            dist.all_gather_object(states, self.evaluation.state())
            for state in states:
                self.evaluation.merge(state)
        self.scores = self.evaluation.compute()
        for prefix, scores in (("", self.scores.box), ("mask_", self.scores.mask)):
            if scores is not None:
                for name in ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100"):
                    value = float(getattr(scores, name))
                    if not math.isnan(value):  # no object of that size
                        self.log(f"val_{prefix}{name}", value)

    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        optimizer = create_optimizer_v2(
            self.model,
            opt=recipe.optimizer,
            lr=recipe.peak_lr,
            weight_decay=recipe.weight_decay,
            momentum=recipe.momentum,
            filter_bias_and_bn=False,
        )
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(recipe, step, steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def rate(recipe: DetectionRecipe, step: int, steps: int) -> float:
    """The learning rate at a step of `steps`, as a share of the peak."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    start = recipe.warmup_factor + (1 - recipe.warmup_factor) * warm
    if recipe.schedule == "cosine":
        return start * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))
    passed = bisect.bisect_right(recipe.milestones, step * recipe.epochs / steps)
    return float(start * recipe.decay_rate**passed)
