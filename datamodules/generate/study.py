"""The folder of a study: photographs, their fakes, the manifest."""

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datamodules.errors import DataError
from datamodules.files import write_atomically
from datamodules.generate.captions import Captioned
from datamodules.generate.folder import OutputFolder
from datamodules.hashing import describe_os_error, open_regular
from datamodules.reader import DEFAULT_LIMITS, SUFFIXES, ImageError, read_image
from datamodules.records import FAKE, REAL
from datamodules.sources.base import safe_name

if TYPE_CHECKING:
    from datamodules.generate.sampling import Sampler

COLUMNS = ("path", "label", "dataset", "generator", "group", "pair", "split", "caption", "caption_source")
TRAIN_SHARE = 5  # one in so many calibration photographs is for training: a learned orientation needs few, a threshold many


@dataclass(frozen=True, slots=True)
class Photograph:
    """A photograph that was read and found good.

    Attributes:
        captioned: Where it comes from.
        content: The file's bytes.
        digest: First 16 hex digits of their SHA-256.
        suffix: That of its format, for example `.jpg`.
    """

    captioned: Captioned
    content: bytes
    digest: str
    suffix: str

    @property
    def stem(self) -> str:
        """Name of its files, safe whatever its id."""
        return safe_name(self.captioned.id)


@dataclass(slots=True)
class Made:
    """What a run came to.

    Attributes:
        rows: Rows of the manifest.
        pairs: Photographs with their fakes, all in all.
        new: Fakes that this run made.
        skipped: Reason by id of each photograph that could not be used.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    pairs: int = 0
    new: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


class Study(OutputFolder):
    """Photographs chosen by a seed, each with one fake, in a folder of their own.

    A fake is written whole or not at all, and is not made again. Photographs are taken in a random order that the seed and their ids
    decide; the first with a fake are tested on, the next are for calibration (one in `TRAIN_SHARE` the training split, the others
    validation). Where a photograph cannot be used, or gets no fake, the next one takes its place.

    Args:
        folder: Where everything goes.
        settings: All that decides what is made, of plain types; a folder with other settings is refused.
        test: Photographs to test on.
        calibration: Photographs for training and validation.
        dataset: Name of the data set.
        generator: Name of what makes the fakes.
        photographs: Name of the photographs' source; by default what they say themselves.
        seed: Another one chooses others.
        notes: Written beside the settings; not compared.
    """

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        test: int,
        calibration: int,
        dataset: str,
        generator: str,
        photographs: str | None = None,
        seed: int = 0,
        notes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, settings, notes)
        self.test = test
        self.calibration = calibration
        self.dataset = dataset
        self.generator = generator
        self.photographs = photographs
        self.seed = seed

    def make(
        self,
        captioned: Sequence[Captioned],
        sampler: "Callable[[], Sampler]",
        batch_size: int,
        skipped: dict[str, str],
        on_pairs: Callable[[int], object] = lambda count: None,
    ) -> Made:
        """Make what is missing, then write the manifest.

        Args:
            captioned: All photographs to choose from.
            sampler: Called where anything is missing, once.
            batch_size: Fakes that are made at a time.
            skipped: Reasons by id of what is left out already.
            on_pairs: Called with the number of further pairs that are complete.

        Returns:
            What there is now; fewer pairs than wanted where there are not enough photographs.

        Raises:
            DataError: The captions file names fewer photographs than are wanted, none can be used, or what is there was made by another
                commit of the model.
        """
        wanted = self.test + self.calibration
        if len(captioned) < wanted:
            msg = f"{wanted} photographs are wanted, and only {len(captioned)} have a usable caption: lower --test or --calibration"
            raise DataError(msg)
        made, refused = Made(skipped=dict(skipped)), self.refused()
        photographs = self._photographs(captioned, made.skipped)
        loaded = cache(partial(self.load, sampler))  # once, and only where a fake is missing
        while made.pairs < wanted and (chunk := list(islice(photographs, min(batch_size, wanted - made.pairs)))):
            made.new += self._fill(chunk, loaded, refused)
            complete = [photo for photo in chunk if photo.captioned.id not in refused]
            for photo in complete:
                made.rows += self._pair(photo, self._split(made.pairs))
                made.pairs += 1
            on_pairs(len(complete))
        made.skipped |= refused
        self.finish(made.rows, COLUMNS, refused, made.skipped)
        return made

    def _fill(self, chunk: list[Photograph], sampler: "Callable[[], Sampler]", refused: dict[str, str]) -> int:
        """Make the fakes of some photographs that are missing; gives how many are new."""
        missing = {photo.captioned.id for photo in chunk if photo.captioned.id not in refused and not self._fake(photo).is_file()}
        if missing:
            # All of them, though some may be there: in a batch of another size rounding would differ.
            self._sample(sampler(), chunk, missing, refused)
        return len(missing - refused.keys())

    def _sample(self, sampler: "Sampler", chunk: list[Photograph], missing: set[str], refused: dict[str, str]) -> None:
        outcomes = sampler.sample([photo.captioned.id for photo in chunk], [photo.captioned.caption for photo in chunk])
        self.claim()
        for photo, outcome in zip(chunk, outcomes, strict=True):
            if photo.captioned.id not in missing:
                continue
            if isinstance(outcome, str):
                refused[photo.captioned.id] = outcome
                self.refuse(refused)
                continue
            buffer = io.BytesIO()
            outcome.save(buffer, "PNG")
            write_atomically(self._fake(photo), buffer.getvalue())

    def _photographs(self, captioned: Sequence[Captioned], skipped: dict[str, str]) -> Iterator[Photograph]:
        """Good photographs in their random order, of each content and group one."""
        ordered = sorted(captioned, key=lambda each: (order(self.seed, each.id), each.id))
        seen: set[str] = set()
        for each in ordered:
            try:
                photo = _read_photograph(each)
            except ImageError as error:
                skipped[each.id] = error.reason
                continue
            names = {f"content {photo.digest}", f"name {photo.stem}", *([f"group {each.group}"] if each.group else [])}
            if names & seen:
                skipped[each.id] = f"another photograph has its {min(names & seen).partition(' ')[0]}"
                continue
            seen |= names
            yield photo

    def _split(self, position: int) -> str:
        if position < self.test:
            return "test"
        return "train" if position < self.test + max(1, self.calibration // TRAIN_SHARE) else "val"

    def _fake(self, photo: Photograph) -> Path:
        return self.folder / "fakes" / f"{photo.stem}.png"

    def _pair(self, photo: Photograph, split: str) -> list[dict[str, Any]]:
        """The two rows of a photograph and its fake; the photograph is copied, because a manifest must not name files elsewhere."""
        real, fake = self.folder / "reals" / f"{photo.stem}{photo.suffix}", self._fake(photo)
        if not real.is_file() or real.read_bytes() != photo.content:
            write_atomically(real, photo.content)
        pair = f"photograph/{photo.digest}"  # by content: the same photograph in another study is the same pair
        shared = {
            "dataset": self.dataset,
            "group": photo.captioned.group or pair,
            "pair": pair,
            "split": split,
            "caption": photo.captioned.caption,
            "caption_source": photo.captioned.caption_source,
        }
        named = ((real, REAL, self.photographs or photo.captioned.generator), (fake, FAKE, self.generator))
        return [
            {"path": path.relative_to(self.folder).as_posix(), "label": label, "generator": name, **shared} for path, label, name in named
        ]


def _read_photograph(captioned: Captioned) -> Photograph:
    try:
        with open_regular(captioned.path) as file:
            content = file.read(DEFAULT_LIMITS.max_bytes + 1)
    except OSError as error:
        msg = f"its file cannot be read: {describe_os_error(error)}"
        raise ImageError(msg) from error
    decoded = read_image(content)
    suffix = next(suffix for suffix, form in SUFFIXES.items() if form == decoded.format)
    return Photograph(captioned, content, hashlib.sha256(content).hexdigest()[:16], suffix)


def order(seed: int, name: str) -> bytes:
    """What photographs are sorted by, so that the seed and their ids decide their order."""
    return hashlib.sha256(f"order\0{seed}\0{name}".encode("utf-8", "surrogateescape")).digest()
