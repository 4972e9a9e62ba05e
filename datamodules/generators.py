"""Which generators are trained on, and how often."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from datamodules.errors import DataError
from datamodules.records import FAKE, Record
from datamodules.splits import hashed, tokens

logger = logging.getLogger(__name__)


def training_generators(
    records: Sequence[Record], wanted: Sequence[str] | None = None, most: int | None = None, seed: int = 0
) -> list[str] | None:
    """Which generators may be trained on, as `dataset/generator`.

    Args:
        records: All records, with splits: of those in the test alone nothing can be trained on.
        wanted: Patterns (`faces/stylegan2`, `stylegan*`) of a generator's name or of `dataset/generator`; one that begins with `!` takes
            what matches it away again, from all generators where there are no others. All by default.
        most: Of these at most so many, chosen by a hash of the seed and their names: more of them include the fewer ones.
        seed: Another seed chooses others.

    Returns:
        Their names; None where all generators may be trained on.

    Raises:
        DataError: A pattern that matches nothing, or fewer generators than asked for can be trained on.
    """
    if wanted is None and most is None:
        return None
    names = sorted({(record.generator, f"{record.dataset}/{record.generator}") for record in records if record.label == FAKE})
    trainable = {f"{record.dataset}/{record.generator}" for record in records if record.label == FAKE and record.split == "train"}
    patterns = wanted or []
    matching = {pattern: {name for pair in names if _matches(pair, pattern) for name in pair[1:]} for pattern in patterns}
    if idle := [pattern for pattern, found in matching.items() if not found]:
        known = ", ".join(name for _, name in names[:20]) + (" …" if len(names) > 20 else "")
        message = f"train_generators names {', '.join(map(repr, idle))}, which matches no generator. There are {known or 'none'}."
        raise DataError(message)
    taken = [found for pattern, found in matching.items() if not pattern.startswith("!")]
    chosen = set().union(*taken) if taken else {name for _, name in names}
    chosen -= set().union(*(found for pattern, found in matching.items() if pattern.startswith("!")))
    if most is not None and most < 1:
        message = f"max_generators is {most}: give 1 or more, or none for all."
        raise DataError(message)
    chosen &= trainable
    if len(chosen) < (most or 1):
        told = ", ".join(sorted(chosen)) or "none"
        message = f"{f'max_generators is {most}' if most else f'train_generators is {patterns}'}, and there are training images of {told}."
        raise DataError(message)
    return sorted(chosen, key=lambda name: hashed(seed, name))[:most]


def _matches(names: tuple[str, str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern.removeprefix("!")) for name in names)


def hold_out_generators(records: Sequence[Record], trained: Sequence[str] | None) -> list[Record]:
    """Keep the fakes of all other generators out of training and validation.

    They go to the test split whole. Those that share content, group or pair with an image that stays in training or validation are left
    out of this run: a test on them would be one on the photograph that was trained on. The split of all other images stays as it is.

    Args:
        records: Records with splits.
        trained: The generators that may be trained on, as `dataset/generator`; None for all.

    Returns:
        The records that are left, in the same order.
    """
    if trained is None:
        return list(records)
    others = [record.label == FAKE and f"{record.dataset}/{record.generator}" not in trained for record in records]
    used = {
        token for record, other in zip(records, others, strict=True) if not other and record.split != "test" for token in tokens(record)
    }
    kept, left_out = [], 0
    for record, other in zip(records, others, strict=True):
        if not other or record.split == "test":
            kept.append(record)
        elif used.isdisjoint(tokens(record)):
            kept.append(replace(record, split="test"))
        else:
            left_out += 1
    if left_out:
        logger.info(
            "%d images of generators that are not trained on are left out: their photographs or prompts are among the training images.",
            left_out,
        )
    return kept


def repeats(record: Record, times: Mapping[str, int]) -> int:
    """How often a training image comes in an epoch: the largest number of the patterns that match it, else once.

    Args:
        record: The image.
        times: By pattern of a generator's name or of `dataset/generator`.
    """
    names = (record.generator, f"{record.dataset}/{record.generator}")
    return max((count for pattern, count in times.items() if _matches(names, pattern)), default=1)


def check_times(times: Mapping[str, int]) -> None:
    """Refuse numbers of times of `repeats` that are not 1 or more.

    Raises:
        DataError: With those.
    """
    if wrong := {pattern: number for pattern, number in times.items() if number < 1}:
        message = f"data.repeat has {wrong}: a number of times is 1 or more (train_generators leaves a generator out)"
        raise DataError(message)


def check_repeats(records: Sequence[Record], times: Mapping[str, int]) -> None:
    """Refuse patterns of `repeats` that stand for no image.

    Raises:
        DataError: With the first such pattern.
    """
    names = {(record.generator, f"{record.dataset}/{record.generator}") for record in records}
    for pattern in times:
        if pattern.startswith("!") or not any(_matches(pair, pattern) for pair in names):
            known = ", ".join(sorted(name for _, name in names)[:20])
            message = f"data.repeat names {pattern!r}, which matches no images. There are {known or 'none'}."
            raise DataError(message)
