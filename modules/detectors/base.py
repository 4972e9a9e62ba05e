"""The detector that all others are: one step, metrics for each split, a threshold from validation reals."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any, ClassVar, Literal

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torchmetrics import MeanMetric

from modules.detectors.calibration import Calibrator, Method
from modules.detectors.samples import Samples
from modules.errors import ModelError
from modules.metrics.functional import Threshold, threshold_at_fpr
from modules.metrics.ranking import RankingMetric, ranking_metrics
from modules.seeds import seed_step
from modules.settings import settings_of

OptimizerCallable = Callable[[Iterable[Any]], Optimizer]
SchedulerCallable = Callable[[Optimizer], LRScheduler]
Target = Literal["binary", "family", "generator"]

# Constructor arguments that scoring does not need; callables would make a checkpoint unloadable with weights_only.
TRAINING_ONLY = ("optimizer", "scheduler")


class AllScores(RankingMetric):
    """All scores and labels, from every rank."""

    def measure(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Both, `[2, n]`, in no particular order."""
        return torch.stack([scores, labels.to(scores)])


class Detector(pl.LightningModule, ABC):
    """Base of all detectors.

    A subclass gives `forward` (features to outputs) and `features` (which cached ones it reads), and overrides `loss` and `score`
    where its outputs are not one logit an image. It keeps every constructor argument as an attribute of the same name.

    Args:
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch; none by default.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for the detector's own
            boundary, a score of 0.
        calibration: How a score becomes a probability: `none`; `sigmoid` (it is a logit already); `temperature` or `logistic`, fitted on
            the validation set with real and generated images weighted alike.

    Attributes:
        target: What it learns: `binary` (real or fake), or the `family` or the `generator` of an image.
        classes: Names of the classes that it tells apart, the first of them `real`; None for a binary target, or where none are known yet.
    """

    name: ClassVar[str] = "detector"
    target: Target = "binary"
    classes: list[str] | None = None

    def __init__(
        self,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-4, weight_decay=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float | None = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__()
        if threshold_fpr is not None and not 0 < threshold_fpr < 1:
            msg = f"threshold_fpr is {threshold_fpr}; a false positive rate lies between 0 and 1"
            raise ValueError(msg)
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.threshold_fpr = threshold_fpr
        self.calibration = calibration
        self.calibrator = Calibrator(calibration)
        self.threshold = Threshold(None, threshold_fpr, 0, "no validation yet")
        for split in ("train", "val", "test"):
            setattr(self, f"{split}_metrics", ranking_metrics().clone(prefix=f"{split}/"))
            setattr(self, f"{split}_loss", MeanMetric())
        self.val_scores = AllScores()

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
    def learns(self) -> bool:
        """Whether there is anything for an optimiser; where not, train.py only measures threshold and calibration."""
        return True

    @property
    def reads_all(self) -> bool:
        """Whether `begin` must see all training samples first; False by default."""
        return False

    def begin(self, samples: Samples) -> None:
        """Look at all training samples before training, validation or a resumed run, whose checkpoint is loaded over what comes of it.

        The same samples give the same result. Nothing by default.

        Args:
            samples: Of the training split, views and repeats included.
        """

    def learn_classes(self, names: Sequence[str]) -> None:
        """Take the names of the classes of the training images, before `begin`.

        Args:
            names: `real` and then those of the fakes. Where the detector has them in another order already, that of `classes` stays.

        Raises:
            ModelError: If the detector has other classes, or knows none at all, as by default.
        """
        msg = f"{type(self).__name__} tells real from fake only, and cannot learn the classes {', '.join(names)}; use a probe"
        raise ModelError(msg)

    def check_features(self, extractor: dict[str, Any], perturbation: str) -> None:
        """Refuse features that the detector was not made for; nothing to refuse by default.

        Args:
            extractor: Settings of what makes them.
            perturbation: What the images go through first.
        """

    @property
    def pictures(self) -> list[str]:
        """Which images a report shows as what the detector saw; the features by default."""
        return self.features

    def score(self, outputs: Tensor) -> Tensor:
        """One real number an image, `[B]`, larger for more likely fake; the single logit by default."""
        return outputs.flatten()

    def logit(self, scores: Tensor) -> Tensor | None:
        """Log-odds that images of these scores are fake, of the same shape; None where the detector is not calibrated."""
        return self.calibrator(scores) if self.calibrator.fitted else None

    def probability(self, scores: Tensor) -> Tensor | None:
        """Probability that images of these scores are fake, in [0, 1], of the same shape; None where the detector is not calibrated."""
        logits = self.logit(scores)
        return None if logits is None else logits.sigmoid()

    @property
    def no_probability(self) -> str | None:
        """Why there is no probability although one was asked for."""
        return self.calibrator.reason

    def loss(self, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
        """What training minimises; binary cross-entropy of the single logit by default."""
        return binary_cross_entropy_with_logits(self.score(outputs), batch["label"].float())

    def told(self, outputs: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """What there is to say of a batch besides the scores; nothing by default.

        Args:
            outputs: Of `forward`.
            features: What they were made of.

        Returns:
            For a detector of classes `class`, int64 `[B]`, -1 for unknown, and `class_probability`, float64 `[B]`, that of the predicted
            class, NaN where there is none; where it is measured `novelty`, float64 `[B]`, larger for less like the training images.
        """
        return {}

    def keep_validated(self, outputs: Tensor, batch: dict[str, Any]) -> None:
        """Keep what the end of the validation needs of a batch besides the scores; nothing by default.

        Args:
            outputs: Of `forward`, without gradient.
            batch: What they were made of.
        """

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Random crops and the like depend on the step: a resumed run draws those that an undisturbed one would have."""
        seed_step(self.current_epoch, batch_idx, self.global_rank)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step of training."""
        return self._step(batch, "train")[2]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and scores of a validation batch."""
        outputs, scores, _ = self._step(batch, "val")
        self.val_scores.update(scores, batch["label"], batch["index"])
        self.keep_validated(outputs, batch)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Loss and scores of a test batch."""
        self._step(batch, "test")

    def predict_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """`key` and `score` of each image of a batch, and what is `told` besides."""
        outputs = self(batch["features"])
        told = {name: values.cpu() for name, values in self.told(outputs, batch["features"]).items()}
        return {"key": batch["key"], "score": self.score(outputs).cpu().double(), **told}

    def on_train_epoch_end(self) -> None:
        """Log the training metrics, measured on augmented images."""
        self._log_metrics("train")

    def on_validation_epoch_end(self) -> None:
        """Set the threshold on the reals' scores, fit the calibration, and log the validation metrics."""
        if not self.trainer.sanity_checking:
            scores, labels = self.val_scores.compute()
            reals, fpr = scores[labels == 0], self.threshold_fpr
            self.threshold = Threshold(0.0, None, len(reals)) if fpr is None else threshold_at_fpr(reals, fpr)
            self.calibrator.fit(scores, labels)
        self.val_scores.reset()
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
            **self.measured(),
        }

    def measured(self) -> dict[str, Any]:
        """Threshold and calibration as a checkpoint tells them, in plain types."""
        calibration = {"method": self.calibration, "n": self.calibrator.n, "reason": self.calibrator.reason}
        return {"threshold": asdict(self.threshold), "calibration": calibration}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take over the threshold; slope and centre of the calibration are among the weights."""
        if "undertow" in checkpoint:
            self.threshold = Threshold(**checkpoint["undertow"]["threshold"])
            told = checkpoint["undertow"].get("calibration", {})
            self.calibrator.n, self.calibrator.reason = told.get("n", 0), told.get("reason", self.calibrator.reason)

    def _step(self, batch: dict[str, Any], split: str) -> tuple[Tensor, Tensor, Tensor]:
        """The one step of all splits: outputs without gradient, scores, which are kept for the metrics, and the loss (0 without one)."""
        outputs = self(batch["features"])
        scores = self.score(outputs.detach())
        getattr(self, f"{split}_metrics").update(scores, batch["label"], batch["index"])
        loss = self.loss(outputs, batch) if self.learns else scores.new_zeros(())
        if self.learns:
            getattr(self, f"{split}_loss").update(loss.detach(), len(scores))
        if split == "train":
            self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=False, batch_size=len(scores))
        return outputs.detach(), scores, loss

    def _log_metrics(self, split: str) -> None:
        """Compute and log an epoch's loss and metrics.

        They reduce over ranks by themselves, here, where all ranks come by. Lightning's own reduction (`sync_dist`) would wait for ever:
        the progress bar of rank 0 asks for it alone.
        """
        metrics, loss = getattr(self, f"{split}_metrics"), getattr(self, f"{split}_loss")
        if not self.trainer.sanity_checking:
            if self.learns:
                self.log("train/loss_epoch" if split == "train" else f"{split}/loss", loss.compute())
            for name, value in metrics.compute().items():
                if torch.isnan(value) and "tpr_at_fpr" in name:
                    continue  # too few reals for this rate
                self.log(name, value.float(), prog_bar=name == "val/auroc")
        metrics.reset()
        loss.reset()
