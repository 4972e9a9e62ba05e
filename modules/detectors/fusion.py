"""A detector made of detectors: one probability from several."""

import logging
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from modules.detectors.base import Detector
from modules.detectors.calibration import Method
from modules.detectors.checkpoint import load_detector
from modules.errors import ModelError

log = logging.getLogger(__name__)

Rule = Literal["soft_or", "mean_logit", "max_logit", "mean_probability"]
SMALL = -15.0  # logarithm below which two terms of a series are exact to 1e-13


class Fusion(Detector):
    """Several calibrated detectors' verdicts as one; nothing is trained.

    The score is the log-odds of the fused probability. Each member reads its own features under the names that `Together` gives them,
    `<member>.<feature>`. Cozzolino et al. 2024 fuse their linear probe with Corvi et al.'s network by `soft_or`.

    Args:
        detectors: By name, frozen and calibrated each: with released weights by `calibration: sigmoid`.
        rule: `soft_or` (1 - Π(1 - p): fake if any member finds so), `mean_logit`, `max_logit` or `mean_probability`.
        checkpoints: Further members by name, from checkpoints of train.py that were calibrated. The fusion's own checkpoint holds them.
        threshold_fpr: False positive rate at which the threshold is set on the validation set's real images; None for even odds.
        calibration: How the fused score becomes a probability; see `Detector`. With `sigmoid` it is the fused probability itself, which
            is calibrated no better than the rule's assumptions hold; `logistic` fits it anew.

    Raises:
        ValueError: If there is no such rule, or a name has a dot in it.
    """

    name: ClassVar[str] = "fusion"

    def __init__(
        self,
        detectors: dict[str, Detector] | None = None,
        rule: Rule = "soft_or",
        checkpoints: dict[str, str] | None = None,
        threshold_fpr: float | None = 0.05,
        calibration: Method = "none",
    ) -> None:
        super().__init__(threshold_fpr=threshold_fpr, calibration=calibration)
        if rule not in RULES:
            msg = f"model.rule is {rule!r}; it must be one of {', '.join(RULES)}"
            raise ValueError(msg)
        members = [*(detectors or {}), *(checkpoints or {})]
        if not members or len(set(members)) != len(members) or any(not name or "." in name for name in members):
            msg = f"the members are named {members}; there must be one or more, each once, with names without dots"
            raise ValueError(msg)
        loaded = {name: load_detector(path) for name, path in (checkpoints or {}).items()}
        self.made_for = {name: described for name, (_, described) in loaded.items()}
        self.detectors = nn.ModuleDict({**(detectors or {}), **{name: member for name, (member, _) in loaded.items()}}).requires_grad_(
            False
        )
        self.checkpoints = checkpoints
        self.rule = rule
        self.train(self.training)

    @property
    def features(self) -> list[str]:
        """The members', each under its member's name."""
        return [f"{name}.{feature}" for name, member in self._members() for feature in member.features]

    @property
    def pictures(self) -> list[str]:
        """Those of the members' features that they show."""
        return [f"{name}.{picture}" for name, member in self._members() for picture in member.pictures if picture in member.features]

    @property
    def learns(self) -> bool:
        """False: there is nothing to train."""
        return False

    def check_features(self, extractor: dict[str, Any], perturbation: str) -> None:
        """Refuse features of another extractor than a member was trained with; arguments as in the base class.

        Raises:
            ModelError: With the member and what differs.
        """
        given = extractor["init_args"].get("extractors") or {}
        for name, described in self.made_for.items():
            if given.get(name) != described["extractor"]:
                msg = (
                    f"the member {name} was trained with the extractor {described['extractor']}, and data.extractor gives it "
                    f"{given.get(name, 'nothing')}: set data.extractor to Together with the same checkpoints as model.checkpoints"
                )
                raise ModelError(msg)
            if perturbation != described["perturbation"]:
                log.warning("the member %s was trained on images under %s; here it is %s", name, described["perturbation"], perturbation)

    def train(self, mode: bool = True) -> "Fusion":
        """Training mode, in which the members still work as in evaluation."""
        super().train(mode)
        self.detectors.eval()
        return self

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """Log-odds of the fused probability, `[B]`.

        Raises:
            ModelError: If a member is not calibrated.
        """
        return RULES[self.rule](torch.stack([self._logits(name, member, features) for name, member in self._members()]))

    def _logits(self, name: str, member: Detector, features: dict[str, Tensor]) -> Tensor:
        scores = member.score(member({feature: features[f"{name}.{feature}"] for feature in member.features}))
        logits = member.logit(scores)
        if logits is None:
            why = f"; {member.no_probability}" if member.no_probability else ""
            msg = (
                f"the member {name} is not calibrated (its calibration is {member.calibration!r}{why}), and only probabilities can be "
                "fused: train it with --model.calibration logistic, or where its scores are log-odds already, as those of a network "
                "trained by cross-entropy are, set its calibration to sigmoid"
            )
            raise ModelError(msg)
        return logits

    def _members(self) -> list[tuple[str, Detector]]:
        return [(name, member) for name, member in self.detectors.items() if isinstance(member, Detector)]


def soft_or(logits: Tensor) -> Tensor:
    """Log-odds of 1 - Π(1 - p) of members' log-odds.

    With S = Σ log(1 + odds), Π(1 - p) is exp(-S) and the fused odds exp(S) - 1. Their logarithm is taken without a probability being
    formed, which would be 1 in float32 from log-odds of 17 on.

    Args:
        logits: `[members, B]`.

    Returns:
        `[B]`.
    """
    parts = -logsigmoid(-logits)  # log(1 + odds)
    logarithms = torch.where(logits < SMALL, logits - logits.exp() / 2, parts.clamp(min=torch.finfo(parts.dtype).tiny).log())
    log_total = logarithms.logsumexp(0)
    total = log_total.exp()
    many = total + torch.log1p(-torch.exp(-total))
    few = log_total + (torch.expm1(total) / total).log()
    return torch.where(log_total < SMALL, log_total + total / 2, torch.where(total > 1, many, few))


def mean_probability(logits: Tensor) -> Tensor:
    """Log-odds of the mean probability of members' log-odds, `[members, B]` to `[B]`; log Σp - log Σ(1 - p)."""
    return logsigmoid(logits).logsumexp(0) - logsigmoid(-logits).logsumexp(0)


def mean_logit(logits: Tensor) -> Tensor:
    """Mean of members' log-odds, `[members, B]` to `[B]`."""
    return logits.mean(0)


def max_logit(logits: Tensor) -> Tensor:
    """Largest of members' log-odds, `[members, B]` to `[B]`."""
    return logits.amax(0)


RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "soft_or": soft_or,
    "mean_logit": mean_logit,
    "max_logit": max_logit,
    "mean_probability": mean_probability,
}
