"""The detector that all others are: one step, metrics for each split, a threshold from validation reals."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any, ClassVar

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from modules.metrics.functional import Threshold, threshold_at_fpr
from modules.metrics.ranking import RankingMetric, ranking_metrics
from modules.seeds import seed_step
from modules.settings import settings_of

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]

# Constructor arguments that scoring does not need; callables would make a checkpoint unloadable with weights_only.
TRAINING_ONLY = ("optimizer", "scheduler")


class RealScores(RankingMetric):
    """All scores of real images, sorted, from every rank."""

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores of label 0, `[n]`."""
        return scores[labels == 0].sort().values


class Detector(pl.LightningModule, ABC):
    """Base of all detectors.

    A subclass gives `forward` (features to outputs) and `features` (which cached ones it reads), and overrides `loss` and `score`
    where its outputs are not one logit an image. It keeps every constructor argument as an attribute of the same name.

    Args:
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch; none by default.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images.
    """

    name: ClassVar[str] = "detector"

    def __init__(
        self,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-4, weight_decay=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float = 0.05,
    ) -> None:
        super().__init__()
        if not 0 < threshold_fpr < 1:
            msg = f"threshold_fpr is {threshold_fpr}; a false positive rate lies between 0 and 1"
            raise ValueError(msg)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.threshold_fpr = threshold_fpr
        self.threshold = Threshold(None, threshold_fpr, 0, "no validation yet")
        for split in ("train", "val", "test"):
            setattr(self, f"{split}_metrics", ranking_metrics().clone(prefix=f"{split}/"))
            setattr(self, f"{split}_loss", MeanMetric())
        self.val_reals = RealScores()

    def settings(self) -> dict[str, Any]:
        """Class and constructor arguments in plain types, without what only training needs."""
        return settings_of(self, skip=TRAINING_ONLY)

    @property
    @abstractmethod
    def features(self) -> list[str]:
        """Names of the cached features that `forward` reads."""

    @abstractmethod
    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Outputs of a batch of features."""

    @property
    def pictures(self) -> list[str]:
        """Which images a report shows as what the detector saw; the features by default."""
        return self.features

    def score(self, outputs: Tensor) -> Tensor:
        """One real number an image, `[B]`, larger for more likely fake; the single logit by default."""
        return outputs.flatten()

    def loss(self, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
        """What training minimises; binary cross-entropy of the single logit by default."""
        return binary_cross_entropy_with_logits(self.score(outputs), batch["label"].float())

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Random crops and the like depend on the step: a resumed run draws those that an undisturbed one would have."""
        seed_step(self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of training."""
        return self._step(batch, "train")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and scores of a validation batch."""
        scores = self._step(batch, "val", returns_scores=True)
        self.val_reals.update(scores, batch["label"], batch["index"])

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and scores of a test batch."""
        self._step(batch, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """`key` and `score` of each image of a batch."""
        return {"key": batch["key"], "score": self.score(self(batch["features"])).double().cpu()}

    def on_train_epoch_end(self) -> None:
        """Log the training metrics, measured on augmented images."""
        self._log_metrics("train")

    def on_validation_epoch_end(self) -> None:
        """Set the threshold on the reals' scores, and log the validation metrics."""
        if not self.trainer.sanity_checking:
            self.threshold = threshold_at_fpr(self.val_reals.compute(), self.threshold_fpr)
        self.val_reals.reset()
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        """Log the test metrics."""
        self._log_metrics("test")

    def configure_optimizers(self) -> Any:
        """The optimiser, and the schedule where there is one."""
        optimizer = self.optimizer(self.parameters())
        if self.scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what scoring a new image needs, in plain types."""
        data = getattr(self.trainer, "datamodule", None)
        checkpoint["undertow"] = {
            "detector": self.settings(),
            "data": data.describe() if data is not None else None,
            "threshold": asdict(self.threshold),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the threshold."""
        if "undertow" in checkpoint:
            self.threshold = Threshold(**checkpoint["undertow"]["threshold"])

    def _step(self, batch: dict[str, Any], split: str, returns_scores: bool = False) -> Tensor:
        """The one step of all splits: outputs, loss, scores kept for the metrics; gives the loss, or the scores."""
        outputs = self(batch["features"])
        loss = self.loss(outputs, batch)
        scores = self.score(outputs.detach())
        getattr(self, f"{split}_metrics").update(scores, batch["label"], batch["index"])
        getattr(self, f"{split}_loss").update(loss.detach(), len(scores))
        if split == "train":
            self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=len(scores))
        return scores if returns_scores else loss

    def _log_metrics(self, split: str) -> None:
        """Compute and log an epoch's loss and metrics.

        They reduce over ranks by themselves, here, where all ranks come by. Lightning's own reduction (`sync_dist`) would wait for ever:
        the progress bar of rank 0 asks for it alone.
        """
        metrics, loss = getattr(self, f"{split}_metrics"), getattr(self, f"{split}_loss")
        if not self.trainer.sanity_checking:
            self.log("train/loss_epoch" if split == "train" else f"{split}/loss", loss.compute())
            for name, value in metrics.compute().items():
                if torch.isnan(value) and "tpr_at_fpr" in name:
                    continue  # too few reals for this rate
                self.log(name, value.float(), prog_bar=name == "val/auroc")
        metrics.reset()
        loss.reset()
