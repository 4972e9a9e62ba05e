"""Linear support vector machines on cached vectors: fitted by scikit-learn, kept as tensors."""

import logging
import warnings
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modules.detectors.base import Target
from modules.detectors.calibration import Method
from modules.detectors.exact import Exact, double, returned
from modules.detectors.probe import Probe
from modules.errors import ModelError

log = logging.getLogger(__name__)

SEED = 0  # of the order in which liblinear visits images


class Planes(Exact):
    """Separating planes, one for each pair of classes, or a single one.

    Args:
        planes: How many.
        dimension: Numbers in a vector.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, planes: int, dimension: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.full((planes, dimension), torch.nan, dtype=torch.float64))
        self.register_buffer("bias", torch.full((planes,), torch.nan, dtype=torch.float64))

    @property
    def fitted(self) -> bool:
        """Whether there are any planes yet."""
        return not bool(self.bias.isnan().any())

    def forward(self, vectors: Tensor) -> Tensor:
        """On which side of each plane vectors `[B, D]` lie, and how far: doubles `[B, planes]`."""
        values = double(vectors)
        return values @ self.weight.to(values.device).T + self.bias.to(values.device)


def one_vs_one(confidences: Tensor, classes: int) -> Tensor:
    """Decision values of all classes from those of their pairs, as scikit-learn's `OneVsOneClassifier.decision_function` has them.

    A class gets a vote from each pair that it wins, and less than a third of a vote by its summed confidences, so that these decide
    between classes of equally many votes and never against a vote.

    Args:
        confidences: `[B, C (C - 1) / 2]`, of the pairs (0, 1), (0, 2), …, (1, 2), …; above 0 for the second class of a pair.
        classes: C, their number.

    Returns:
        `[B, C]`.
    """
    first, second = torch.triu_indices(classes, classes, 1, device=confidences.device)
    won = (confidences > 0).to(confidences)
    zeros = confidences.new_zeros(len(confidences), classes)
    votes = zeros.index_add(1, second, won).index_add(1, first, 1 - won)
    summed = zeros.index_add(1, second, confidences).index_add(1, first, -confidences)
    return votes + summed / (3 * (summed.abs() + 1))


class SVMProbe(Probe):
    """scikit-learn's `LinearSVC`, for classes within its `OneVsOneClassifier`, on an embedding.

    It is fitted at once to all training images, which must fit into memory, and needs no epochs. Scores are decision values: for a binary
    head the distance to its plane times the weights' norm, for classes the best decision value of a class of fakes minus that of `real`.

    Args:
        dimension: Numbers in a vector; that of the training images where it is not given.
        feature: Name of the cached vector, or several names: these vectors are put one after the other.
        target: `binary`, or the `family` or the `generator` of an image: one class each.
        classes: Names of the classes, the first of them `real`; those of the training images where they are not given.
        standardise: Take out the mean of the training vectors and divide by their standard deviation.
        c: Inverse strength of the regularisation.
        class_weight: `balanced` weighs images inversely to how many there are of their class; None weighs all alike.
        max_iter: Most iterations of a fit.
        unknown: `distance` to tell images that are like none of the training images; see `Probe`.
        unknown_at: Share of the validation images of known classes that may be called unknown.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for a score of 0.
        calibration: `none`, or `logistic` (Platt 1999) for a probability. (`temperature` and `sigmoid` take a score for a logit, which a
            decision value is not.)

    Raises:
        ValueError: If an option is none that there is, or does not go with another.
    """

    name: ClassVar[str] = "svm"

    def __init__(
        self,
        dimension: int | None = None,
        feature: str | list[str] = "embedding",
        target: Target = "binary",
        classes: list[str] | None = None,
        standardise: bool = False,
        c: float = 1.0,
        class_weight: Literal["balanced"] | None = None,
        max_iter: int = 1000,
        unknown: Literal["none", "distance"] = "none",
        unknown_at: float = 0.05,
        threshold_fpr: float | None = 0.05,
        calibration: Literal["none", "logistic"] = "none",
    ) -> None:
        if calibration not in ("none", "logistic"):
            msg = f"model.calibration is {calibration!r}; the decision value of an SVM is no logit, so it must be none or logistic"
            raise ValueError(msg)
        if unknown not in ("none", "distance"):
            msg = f"model.unknown is {unknown!r}; an SVM has no logits to take the energy of, so it must be none or distance"
            raise ValueError(msg)
        if not c > 0 or max_iter < 1 or class_weight not in (None, "balanced"):
            msg = (
                f"model.c is {c}, model.max_iter {max_iter} and model.class_weight {class_weight!r}; they must be above 0, at least 1, and "
                "balanced or null"
            )
            raise ValueError(msg)
        method: Method = calibration
        super().__init__(
            dimension, feature, target, classes, standardise, unknown, unknown_at, threshold_fpr=threshold_fpr, calibration=method
        )
        self.c = c
        self.class_weight = class_weight
        self.max_iter = max_iter
        self.complete()

    @property
    def learns(self) -> bool:
        """False: it is fitted before the first epoch, and no optimiser goes on with it."""
        return False

    def build(self, dimension: int, outputs: int) -> None:
        """Room for a plane for each pair of classes."""
        self.planes = Planes(max(1, outputs * (outputs - 1) // 2), dimension)

    def learn(self, vectors: Tensor, targets: Tensor) -> None:
        """Fit the planes to vectors `[N, dimension]` and their classes; fakes of no class are left out, which is said."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.multiclass import OneVsOneClassifier
        from sklearn.svm import LinearSVC

        known = targets >= 0
        if not bool(known.all()):
            log.warning("%d training images are of no class that the SVM tells apart (model.classes), and left out", int((~known).sum()))
            vectors, targets = vectors[known], targets[known]
        machine = LinearSVC(C=self.c, class_weight=self.class_weight, max_iter=self.max_iter, random_state=SEED)
        fitted: Any = machine if self.classes is None else OneVsOneClassifier(machine)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # said below, with the option's name
            fitted.fit(self.standardised(vectors).double().numpy(), targets.numpy())
        machines = [fitted] if self.classes is None else fitted.estimators_
        if stopped := sum(int(each.n_iter_) >= self.max_iter for each in machines):
            log.warning(
                "%d of %d planes of the SVM need more iterations than --model.max_iter %d: set it higher, or a lower --model.c (now %g)%s",
                stopped,
                len(self.planes.bias),
                self.max_iter,
                self.c,
                "" if self.standardise else ", or --model.standardise true",
            )
        self.planes.weight.copy_(torch.stack([torch.from_numpy(each.coef_[0]) for each in machines]))
        self.planes.bias.copy_(torch.tensor([float(each.intercept_[0]) for each in machines]))

    def outputs_of(self, vectors: Tensor) -> Tensor:
        """Decision values, `[B, 1]` or `[B, classes]`, of vectors `[B, dimension]`; doubles where the device has some.

        Raises:
            ModelError: If nothing was fitted yet.
        """
        if not self.planes.fitted:
            msg = "the SVM has not been fitted yet: train.py does so"
            raise ModelError(msg)
        confidences = self.planes(vectors)
        return returned(confidences if self.classes is None else one_vs_one(confidences, len(self.classes)), vectors.device)

    def score(self, outputs: Tensor) -> Tensor:
        """The decision value, `[B]`; of classes the best one of a class of fakes minus that of `real`."""
        return outputs.flatten() if self.classes is None else outputs[:, 1:].amax(1) - outputs[:, 0]
