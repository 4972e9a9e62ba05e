"""Heads on cached vectors: the base class of the linear probe, the two-layer network, the SVM and their like."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

from torch import Tensor
from torch.optim import AdamW

from modules.detectors.base import Detector, OptimizerCallable, SchedulerCallable, Target
from modules.detectors.calibration import Method
from modules.detectors.class_answers import Answers, ValidationAnswers, class_loss, collapse
from modules.detectors.exact import Standardiser
from modules.detectors.novelty import Mahalanobis, energy
from modules.detectors.pairs import pair_ranking_loss
from modules.detectors.samples import Samples, check_finite, joined
from modules.detectors.start import Start, go_on, read_start
from modules.errors import ModelError

REAL = "real"
BINARY = ("real", "generated")  # what the two classes of a binary head are called in errors
Unknown = Literal["none", "energy", "distance"]


class Probe(Detector):
    """Base of the heads on cached vectors: binary, or with one output for `real` and one for each class of fakes.

    A subclass gives `build` and `outputs_of`, and ends its constructor by `complete()`. What is not given is learnt from the training
    images: the dimension, and of a head of classes their names. Then they are settings as if they had been given.

    Args:
        dimension: Numbers in a vector; that of the training images where it is not given.
        feature: Name of the cached vector, or several names: these vectors are put one after the other.
        target: `binary` (one output, real or fake), or the `family` or the `generator` of an image (one output a class). The score for
            fake is then the log-odds of all fakes' classes together.
        classes: Names of the outputs, the first of them `real`; those of the training images where they are not given.
        standardise: Take out the mean of the training vectors and divide by their standard deviation.
        unknown: What tells that an image is like none of the training images: `energy` of the logits (Liu et al. 2020), `distance`
            (Mahalanobis, to the nearest class: Lee et al. 2018), or `none`. It is measured as `novelty` for each image, and a head of
            classes answers `unknown` above a threshold.
        unknown_at: Share of the validation images of known classes that may be called unknown: it sets that threshold.
        pair_weight: Weight of a further loss that asks of a fake to score above the photograph that it was made from.
        start: Trained head of the same kind, features and target to go on from, a checkpoint of train.py. Its standardisation stays, its
            outputs are taken over by their names, and new classes get new outputs.
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for a score of 0.
        calibration: How a score becomes a probability; see `Detector`. `sigmoid` is right for a head trained by cross-entropy.

    Raises:
        ValueError: If an option is none that there is, or does not go with another.
        CheckpointError: If the head to start from cannot be read, or is another one.
    """

    head: ClassVar[str] = "layer"
    """Name of the linear layer whose rows are the outputs."""

    def __init__(
        self,
        dimension: int | None = None,
        feature: str | list[str] = "embedding",
        target: Target = "binary",
        classes: list[str] | None = None,
        standardise: bool = False,
        unknown: Unknown = "none",
        unknown_at: float = 0.05,
        pair_weight: float = 0.0,
        start: str | None = None,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-3, weight_decay=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float | None = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__(optimizer, scheduler, threshold_fpr, calibration)
        self.dimension = dimension
        self.feature = feature
        self.target = target
        self.classes = classes
        self.standardise = standardise
        self.unknown = unknown
        self.unknown_at = unknown_at
        self.pair_weight = pair_weight
        self.start = start
        self.complete_already = False
        self._from: Start | None = None
        self._check()
        if start is not None:
            self._from = read_start(start, self)
            self.dimension, self.standardise = self._from.dimension, self._from.standardise
            self._check_classes()

    @property
    def features(self) -> list[str]:
        """The vectors."""
        return [self.feature] if isinstance(self.feature, str) else list(self.feature)

    @property
    def pictures(self) -> list[str]:
        """None: it saw numbers."""
        return []

    @property
    def reads_all(self) -> bool:
        """True: dimension, standardisation and the like are those of the training images."""
        return True

    @property
    def outputs(self) -> int:
        """Number of outputs: 1 for a binary head; 0 where the classes are not known yet."""
        return 1 if self.target == "binary" else len(self.classes or ())

    @abstractmethod
    def build(self, dimension: int, outputs: int) -> None:
        """Make the layers.

        Args:
            dimension: Numbers in a vector.
            outputs: Number of outputs.
        """

    @abstractmethod
    def outputs_of(self, vectors: Tensor) -> Tensor:
        """Outputs `[B, outputs]` of vectors `[B, dimension]`, standardised where that is wanted; of any floating type, on any device."""

    def learn(self, vectors: Tensor, targets: Tensor) -> None:
        """Fit what no optimiser does to all training images; nothing by default.

        Args:
            vectors: `[N, dimension]` as they are cached; `standardised` makes of them what `outputs_of` gets.
            targets: int64 `[N]`, number of the class, -1 for a fake of none; the label for a binary head.
        """

    def complete(self) -> None:
        """Make the layers as soon as dimension and classes are known: the last line of a subclass's constructor."""
        if self.complete_already or self.dimension is None or not self.outputs:
            return
        if self.standardise:
            self.standardiser = Standardiser(self.dimension)
        if self.unknown == "distance":
            self.distance = Mahalanobis(self.dimension, max(2, self.outputs))
        if self.classes is not None or self.unknown != "none":
            self.answers = Answers()
            self.val_answers = ValidationAnswers(self.outputs)
        self.build(self.dimension, self.outputs)
        self.complete_already = True
        if self._from is not None:
            go_on(self, self._from, self.head, self.classes)

    def learn_classes(self, names: Sequence[str]) -> None:
        """Take the names of the classes of the training images; see `Detector`."""
        if self.target == "binary":
            super().learn_classes(names)
        if self.classes is not None:
            if sorted(self.classes) != sorted(names):
                msg = (
                    f"model.classes are {', '.join(self.classes)}, and the training images are of {', '.join(names)}: correct "
                    "model.classes, leave it out, or choose other training images"
                )
                raise ModelError(msg)
            return
        self.classes = list(names)
        self._check_classes()
        self.complete()

    def begin(self, samples: Samples) -> None:
        """Learn from all training images what no optimiser does: dimension, standardisation, what is known.

        Raises:
            ValueError: If a feature is no vector, or of another dimension.
            ModelError: If a class has no training image, a vector is not finite, or the classes were not told.
        """
        vectors = joined(samples.features, self.features, self.dimension)
        if not self.outputs:
            msg = f"model.target is {self.target} and no classes are known: name them as model.classes, `real` first"
            raise ModelError(msg)
        check_finite(vectors, self.features)
        self._check_every_class(samples.targets)
        self.dimension = int(vectors.shape[1])
        self.complete()
        if self.standardise and self._from is None:
            self.standardiser.fit(vectors)
        if self.unknown == "distance":
            self.distance.fit(vectors, samples.targets, self.standardised)
        self.learn(vectors, samples.targets)

    def vectors(self, features: dict[str, Tensor]) -> Tensor:
        """The cached vectors of a batch as one, `[B, dimension]`, standardised where that is wanted.

        Raises:
            ValueError: If they are no vectors, or of another dimension.
        """
        return self.standardised(joined(features, self.features, self.dimension))

    def standardised(self, vectors: Tensor) -> Tensor:
        """Vectors `[N, dimension]` as `outputs_of` gets them."""
        if not self.standardise:
            return vectors
        if not self.standardiser.fitted:
            msg = "model.standardise is true and no training image was seen: train the head by train.py first"
            raise ModelError(msg)
        return self.standardiser(vectors)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Outputs `[B, outputs]` of a batch of cached vectors.

        Raises:
            ValueError: If they are no vectors, or of another dimension.
            ModelError: If the head was not trained yet.
        """
        if not self.complete_already:
            msg = f"the {self.name} head has not seen its training images yet, and has no layers; train it by train.py"
            raise ModelError(msg)
        return self.outputs_of(self.vectors(features))

    def score(self, outputs: Tensor) -> Tensor:
        """Log-odds that images are fake, `[B]`; of a head of classes in double precision, and of all fakes together."""
        return super().score(outputs) if self.classes is None else collapse(outputs)

    def loss(self, outputs: Tensor, batch: dict[str, Any]) -> Tensor:
        """Cross-entropy, and what pairs ask for where `pair_weight` is set."""
        loss = super().loss(outputs, batch) if self.classes is None else class_loss(outputs, batch["target"])
        if not self.pair_weight:
            return loss
        ranking = pair_ranking_loss(self.score(outputs), batch["label"], batch["pair"])
        return loss + self.pair_weight * ranking.to(loss)

    def novelty(self, outputs: Tensor, features: dict[str, Tensor]) -> Tensor | None:
        """How little images are like the training images, doubles `[B]`; None where it is not measured."""
        if self.unknown == "none":
            return None
        return energy(outputs) if self.unknown == "energy" else self.distance(self.vectors(features))

    def told(self, outputs: Tensor, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """Class and its probability of a head of classes, and the novelty where it is measured; see `Detector`."""
        novelty = self.novelty(outputs, features)
        found = {} if novelty is None else {"novelty": novelty}
        if self.classes is not None:
            found["class"], found["class_probability"] = self.answers(outputs, novelty)
        return found

    def keep_validated(self, outputs: Tensor, batch: dict[str, Any]) -> None:
        """Keep outputs and novelty of a validation batch."""
        if self.classes is not None or self.unknown != "none":
            targets = batch["label"] if self.classes is None else batch["target"]
            self.val_answers.update(outputs, self.novelty(outputs, batch["features"]), targets, batch["index"])

    def on_validation_epoch_end(self) -> None:
        """Fit also the temperature of the class probabilities, and what is unknown."""
        if self.classes is not None or self.unknown != "none":
            if not self.trainer.sanity_checking:
                self.answers.fit(*self.val_answers.compute(), share=self.unknown_at)
            self.val_answers.reset()
        super().on_validation_epoch_end()

    def _check(self) -> None:
        if self.dimension is not None and self.dimension < 1:
            msg = f"model.dimension is {self.dimension}; it is how many numbers an embedding has"
            raise ValueError(msg)
        if not self.features or len(set(self.features)) < len(self.features):
            msg = f"model.feature is {self.feature}; name one cached vector or several different ones"
            raise ValueError(msg)
        for name, allowed in (("target", get_args(Target)), ("unknown", get_args(Unknown))):
            if getattr(self, name) not in allowed:
                msg = f"model.{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}"
                raise ValueError(msg)
        if self.unknown == "energy" and self.target == "binary":
            msg = "model.unknown is energy, which needs the logits of several classes: set model.target to family, or unknown to distance"
            raise ValueError(msg)
        if not 0 < self.unknown_at < 1:
            msg = f"model.unknown_at is {self.unknown_at}; it is a share of the validation images, between 0 and 1"
            raise ValueError(msg)
        if not (0 <= self.pair_weight < math.inf):
            msg = f"model.pair_weight is {self.pair_weight}; the weight of a loss is 0 or more"
            raise ValueError(msg)
        self._check_classes()

    def _check_classes(self) -> None:
        if self.classes is None:
            return
        told = f"model.classes are {', '.join(map(str, self.classes)) or 'none'}"
        if self.target == "binary":
            msg = f"{told}, but model.target is binary: set it to family or generator, or leave the classes out"
            raise ValueError(msg)
        if len(self.classes) < 2 or self.classes[0] != REAL or len(set(self.classes)) < len(self.classes):
            msg = f"{told}; `real` must come first, then one class of fakes or more, each once"
            raise ModelError(msg)
        if self._from is not None and (lost := [name for name in self._from.classes or () if name not in self.classes]):
            msg = (
                f"the head of model.start {self._from.path!r} knows {', '.join(lost)}, of which there is no training image now: it would "
                "forget them; train on images of its classes as well, or leave model.start out"
            )
            raise ModelError(msg)

    def _check_every_class(self, targets: Tensor) -> None:
        names = BINARY if self.classes is None else self.classes
        counts = [int((targets == number).sum()) for number in range(len(names))]
        if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
            told = ", ".join(f"{count} {name}" for name, count in zip(names, counts, strict=True) if count) or "none of any class"
            where = "data.train_on and the split" if self.classes is None else "model.classes, data.train_on and the split"
            msg = f"there is no training image of {', '.join(empty)} with features (there are {told}): look at {where}"
            raise ModelError(msg)
