"""A training-free statistic as a detector: a direction, a threshold and, where wanted, a probability."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modules.detectors.base import Detector
from modules.detectors.calibration import Method
from modules.errors import ModelError
from modules.metrics.functional import auroc

Orientation = Literal["larger_is_fake", "smaller_is_fake", "learned"]
LEARNED = "learned"
DIRECTIONS: dict[str, float] = {"larger_is_fake": 1.0, "smaller_is_fake": -1.0}


class ScoreDetector(Detector):
    """One cached scalar as the score, turned so that larger means more likely fake.

    Nothing is trained: the threshold and the calibration are set on the validation split, a learned orientation on the training split.

    Args:
        statistic: Name of the cached scalar, for example `divergence`.
        orientation: `larger_is_fake` or `smaller_is_fake`, as the method's hypothesis says; or `learned`: whichever gives the training
            split an AUROC of at least one half. A hypothesis that does not hold gives an AUROC below one half, and stays so.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images.
        calibration: `none`, or `logistic` for a probability. (`temperature` and `sigmoid` take a score of 0 for an even chance, which no
            statistic promises.)

    Raises:
        ValueError: If orientation or calibration is none of these.
    """

    name: ClassVar[str] = "score"
    direction: Tensor

    def __init__(
        self,
        statistic: str,
        orientation: Orientation = "larger_is_fake",
        threshold_fpr: float = 0.05,
        calibration: Literal["none", "logistic"] = "none",
    ) -> None:
        if orientation not in (*DIRECTIONS, LEARNED):
            msg = f"model.orientation is {orientation!r}; it must be one of {', '.join([*DIRECTIONS, LEARNED])}"
            raise ValueError(msg)
        if calibration not in ("none", "logistic"):
            msg = f"model.calibration is {calibration!r}; a statistic's score is no logit, so it must be none or logistic"
            raise ValueError(msg)
        method: Method = calibration
        super().__init__(threshold_fpr=threshold_fpr, calibration=method)
        self.statistic = statistic
        self.orientation = orientation
        self.register_buffer("direction", torch.tensor(DIRECTIONS.get(orientation, 1.0)))

    @property
    def learns(self) -> bool:
        """False: no gradient is needed."""
        return False

    @property
    def features(self) -> list[str]:
        """The statistic."""
        return [self.statistic]

    @property
    def pictures(self) -> list[str]:
        """None: it saw a number."""
        return []

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The oriented statistic, `[B]`, double: subtracting and ranking must not round it.

        Raises:
            ValueError: If the feature is not one number an image.
        """
        values: Any = features[self.statistic]
        if not isinstance(values, Tensor) or values[0].numel() != 1:
            shape = list(values.shape) if isinstance(values, Tensor) else "several sizes"
            msg = f"model.statistic {self.statistic!r} is a feature of shape {shape}; one number an image is needed"
            raise ValueError(msg)
        exact = values.flatten() if values.device.type == "mps" else values.flatten().double()
        return self.direction.to(exact) * exact

    def learn_orientation(self, scores: Tensor, labels: Tensor) -> None:
        """Turn the scores round where fakes have the lower ones.

        Args:
            scores: `[n]` of the training split, in the present direction.
            labels: `[n]`, 0 real, 1 fake.

        Raises:
            ModelError: If there are images of one class only, or scores that are not numbers.
        """
        if labels.unique().numel() < 2 or bool(scores.isnan().any()):
            msg = (
                f"model.orientation is learned, but the training split has {int((labels == 0).sum())} real and {int((labels == 1).sum())} "
                f"generated images with features, {int(scores.isnan().sum())} of them without a score: give the orientation"
            )
            raise ModelError(msg)
        if float(auroc(scores, labels)) < 0.5:
            self.direction.neg_()
