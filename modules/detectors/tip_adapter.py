"""Tip-Adapter: a few training images as keys and values, and what is known without them (Zhang et al. 2022, arXiv 2111.03930)."""

import hashlib
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot
from torch.optim import AdamW

from modules.detectors.base import Detector, OptimizerCallable, SchedulerCallable, Target
from modules.detectors.calibration import Method
from modules.detectors.checkpoint import load_detector
from modules.detectors.probe import REAL, Probe, Unknown
from modules.errors import ModelError
from modules.networks.encoder_names import parse_name
from modules.networks.text_prompts import prompt_weights

log = logging.getLogger(__name__)

BINARY = (REAL, "fake")  # what the two classes of a binary head are called in `prior_prompts`


class TipAdapter(Probe):
    """A cache of a few embeddings a class, added to the logits of a prior: nothing is trained, or only the keys (Tip-Adapter-F).

    With normalised embeddings q of an image and k of the cached ones, and their one-hot classes as values, the logits are
    prior(q) + alpha · exp(-beta · (1 - q kᵀ)) values, equations 4 to 6 of the paper. A binary head's one output is the fake logit minus
    the real one.

    The cached images are drawn from each class by a hash of `shots_seed` and the embedding, so their order makes no difference; equal
    embeddings (an image that comes twice) are drawn once. Without a prior the paper's `alpha` only scales the logits.

    Args:
        shots: Training images a class in the cache; where a class has fewer, all of them, with a warning.
        alpha: Weight of the cache against the prior.
        beta: How fast the weight of a cached image falls with its distance.
        fine_tune: Train the keys, from the cached embeddings on, by cross-entropy on all training images (Tip-Adapter-F). The paper takes
            AdamW as given here, 20 epochs, and a learning rate that falls to 0 by a cosine: set `scheduler` for that.
        prior_prompts: Texts by class, `real` and the others (`fake` for a binary head): the prior is the zero-shot classifier that
            `prior_encoder` makes of them. It needs that model's embeddings with projection as `feature`.
        prior_encoder: Model of open_clip that reads the prompts, named as the extractor's; only training needs it.
        prior: Checkpoint of a trained head on the same features, whose logits are the prior; or that head itself, as which the settings
            of this one then name it: its tensors are among this one's.
        shots_seed: Of the draw.
        dimension: Numbers in a vector; that of the training images where it is not given.
        feature: Name of the cached vector, or several names: these vectors are put one after the other.
        target: `binary`, `family` or `generator`; see `Probe`.
        classes: Names of the outputs, the first of them `real`; those of the training images where they are not given.
        unknown: What tells that an image is like none of the training images; see `Probe`.
        unknown_at: Share of the validation images of known classes that may be called unknown.
        optimizer: From parameters to an optimiser.
        scheduler: From the optimiser to a learning-rate schedule, stepped once an epoch.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for a score of 0.
        calibration: How a score becomes a probability; see `Detector`.

    Raises:
        ValueError: If an option is none that there is, or does not go with another.
        ModelError: If the prior is of other features, or lacks a class.
        CheckpointError: If the prior's checkpoint cannot be read.
    """

    name: ClassVar[str] = "tip_adapter"
    cache_keys: Tensor
    cache_values: Tensor
    prior_weights: Tensor

    def __init__(
        self,
        shots: int = 16,
        alpha: float = 1.0,
        beta: float = 5.5,
        fine_tune: bool = False,
        prior_prompts: dict[str, list[str]] | None = None,
        prior_encoder: str | None = None,
        prior: str | Detector | None = None,
        shots_seed: int = 0,
        dimension: int | None = None,
        feature: str | list[str] = "embedding",
        target: Target = "binary",
        classes: list[str] | None = None,
        unknown: Unknown = "none",
        unknown_at: float = 0.05,
        optimizer: OptimizerCallable = lambda parameters: AdamW(parameters, lr=1e-3, eps=1e-4),
        scheduler: SchedulerCallable | None = None,
        threshold_fpr: float | None = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__(
            dimension,
            feature,
            target,
            classes,
            unknown=unknown,
            unknown_at=unknown_at,
            optimizer=optimizer,
            scheduler=scheduler,
            threshold_fpr=threshold_fpr,
            calibration=calibration,
        )
        self.shots = shots
        self.alpha = alpha
        self.beta = beta
        self.fine_tune = fine_tune
        self.prior_prompts = prior_prompts
        self.prior_encoder = prior_encoder
        self.shots_seed = shots_seed
        self._check_options(has_prior=prior is not None)
        self._made_for: dict[str, Any] | None = None
        # A path becomes the head that lies there, so that the settings of this one hold it and no path.
        self.prior = self._read_prior(prior)
        self.train(self.training)
        self.complete()

    @property
    def learns(self) -> bool:
        """Whether the keys are trained."""
        return self.fine_tune

    @property
    def names(self) -> Sequence[str]:
        """Names of the classes, `real` and `fake` for a binary head."""
        return BINARY if self.classes is None else self.classes

    def train(self, mode: bool = True) -> "TipAdapter":
        """Training mode, in which the prior still works as in evaluation."""
        super().train(mode)
        if self.prior is not None:
            self.prior.eval()
        return self

    def check_features(self, extractor: dict[str, Any], perturbation: str) -> None:
        """Refuse features of another extractor than the prior was trained with or reads; arguments as in the base class.

        Raises:
            ModelError: With both.
        """
        super().check_features(extractor, perturbation)
        if self._made_for and self._made_for["extractor"] != extractor:
            msg = f"the head of model.prior was trained with the extractor {self._made_for['extractor']}, and data.extractor is {extractor}"
            raise ModelError(msg)
        given = extractor.get("init_args", {})
        if self.prior_encoder is not None and (given.get("encoder") != self.prior_encoder or given.get("projection") is False):
            msg = (
                f"model.prior_encoder is {self.prior_encoder!r}, and the vectors are no embeddings with projection of that model: set "
                "data.extractor to EmbeddingExtractor with this encoder, or model.prior_prompts and model.prior_encoder to null"
            )
            raise ModelError(msg)

    def build(self, dimension: int, outputs: int) -> None:
        """Make an empty cache; see `Probe`. Where a class has fewer images than `shots`, rows stay zero, and count for nothing."""
        count = len(self.names)
        keys = torch.zeros(count * self.shots, dimension)
        if self.fine_tune:
            self.cache_keys = nn.Parameter(keys)
        else:
            self.register_buffer("cache_keys", keys)
        self.register_buffer("cache_values", torch.zeros(count * self.shots, count))
        if self.prior_prompts is not None:
            self._check_prompts(self.prior_prompts)
            self.register_buffer("prior_weights", torch.zeros(count, dimension))
        if self.prior is not None:
            self._check_prior(self.prior, dimension)

    def learn(self, vectors: Tensor, targets: Tensor) -> None:
        """Fill the cache, and make the prior of the prompts; see `Probe`.

        Raises:
            ModelError: If the prompts' model cannot be had, or its texts are of another dimension than the vectors.
        """
        if self.prior_prompts is not None and self.prior_encoder is not None:
            weights = prompt_weights(self.prior_encoder, {name: self.prior_prompts[name] for name in self.names})
            if weights.shape != self.prior_weights.shape:
                msg = (
                    f"the texts of model.prior_encoder {self.prior_encoder!r} have {weights.shape[1]} numbers, and the vectors "
                    f"{', '.join(self.features)} have {vectors.shape[1]}: take the embeddings of that model with projection"
                )
                raise ModelError(msg)
            self.prior_weights.copy_(weights)
        with torch.no_grad():
            self.cache_keys.zero_()
            self.cache_values.zero_()
            for number, name in enumerate(self.names):
                rows = draw(vectors[targets == number], self.shots, self.shots_seed)
                if len(rows) < self.shots:
                    log.warning("%s has %d different training images, and model.shots is %d: all are taken", name, len(rows), self.shots)
                here = slice(number * self.shots, number * self.shots + len(rows))
                self.cache_keys[here] = normalize(rows.to(self.cache_keys), dim=1)
                self.cache_values[here] = one_hot(torch.tensor(number), len(self.names)).to(self.cache_values)

    def outputs_of(self, vectors: Tensor) -> Tensor:
        """Logits `[B, C]` of vectors `[B, dimension]`, or for a binary head their difference, `[B, 1]`.

        Raises:
            ModelError: If the cache is empty.
        """
        if not bool(self.cache_values.any()):
            msg = "the cache of the tip_adapter head is empty: it has not seen its training images; train it by train.py"
            raise ModelError(msg)
        queries = normalize(vectors.to(self.cache_keys.dtype), dim=1)
        affinity = torch.exp(-self.beta * (1 - queries @ self.cache_keys.T))
        logits = self._prior_logits(vectors, queries) + self.alpha * affinity @ self.cache_values
        return logits if self.classes is not None else logits[:, 1:] - logits[:, :1]

    def _prior_logits(self, vectors: Tensor, queries: Tensor) -> Tensor:
        """`[B, C]`, or zeros that fit where there is no prior."""
        if self.prior_prompts is not None:
            return queries @ self.prior_weights.T
        if not isinstance(self.prior, Probe):
            return queries.new_zeros(())
        outputs = self.prior.outputs_of(self.prior.standardised(vectors))
        if self.classes is None:
            score = self.prior.score(outputs).to(queries)
            return torch.stack([torch.zeros_like(score), score], 1)
        known = self.prior.classes or []
        return outputs[:, [known.index(name) for name in self.classes]].to(queries)

    def _read_prior(self, prior: str | Detector | None) -> Detector | None:
        if prior is None:
            return None
        if isinstance(prior, str):
            prior, self._made_for = load_detector(prior)
        if not isinstance(prior, Probe) or prior.features != self.features:
            read, wanted = ", ".join(prior.features), ", ".join(self.features)
            msg = f"model.prior is a {type(prior).__name__} that reads {read}; it must be a head that reads {wanted}, as this one"
            raise ModelError(msg)
        return prior.requires_grad_(False)

    def _check_options(self, has_prior: bool) -> None:
        for name, lowest in (("shots", 1), ("alpha", 0), ("beta", 0)):
            value = getattr(self, name)
            if not lowest <= value < math.inf:
                msg = f"model.{name} is {value}; it must be {lowest} or more"
                raise ValueError(msg)
        if (self.prior_prompts is None) != (self.prior_encoder is None):
            given, absent = ("prior_prompts", "prior_encoder")[:: 1 if self.prior_encoder is None else -1]
            msg = f"model.{given} is set and model.{absent} is not; a prior of prompts needs both"
            raise ValueError(msg)
        if self.prior_encoder is not None:
            parse_name(self.prior_encoder)
        if has_prior and self.prior_prompts is not None:
            msg = "model.prior and model.prior_prompts are both set; there is one prior"
            raise ValueError(msg)

    def _check_prompts(self, prompts: Mapping[str, Sequence[str]]) -> None:
        if absent := [name for name in self.names if not prompts.get(name)]:
            msg = f"model.prior_prompts has no text for {', '.join(absent)} (it has some for {', '.join(prompts) or 'none'}): add some"
            raise ModelError(msg)
        if strange := [name for name in prompts if name not in self.names]:
            msg = f"model.prior_prompts has texts for {', '.join(strange)}, and the classes are {', '.join(self.names)}: leave them out"
            raise ModelError(msg)

    def _check_prior(self, prior: Detector, dimension: int) -> None:
        own = getattr(prior, "dimension", None)
        if own != dimension:
            msg = f"the head of model.prior takes {own} numbers, and {', '.join(self.features)} has {dimension}: they must agree"
            raise ModelError(msg)
        if absent := [name for name in self.classes or () if name not in (prior.classes or ())]:
            knows = ", ".join(prior.classes or BINARY)
            msg = f"the head of model.prior does not know {', '.join(absent)} (it knows {knows}): train one on these classes"
            raise ModelError(msg)


def draw(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Some different rows of vectors, the same ones in whatever order they come.

    Args:
        vectors: `[N, D]`.
        count: How many rows are wanted.
        seed: Another seed gives other rows.

    Returns:
        `[min(count, different rows), D]`, those with the least keyed BLAKE2b hashes of their float32 numbers.
    """
    key = str(seed).encode()
    rows = vectors.detach().cpu().float().contiguous().numpy()
    hashes = {hashlib.blake2b(row.tobytes(), key=key, digest_size=16).digest(): i for i, row in enumerate(rows)}
    return vectors[[hashes[each] for each in sorted(hashes)[:count]]]
