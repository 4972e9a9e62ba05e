"""A folder of real images and the fakes made from them, both through the same chain."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from datamodules.files import write_atomically
from datamodules.generate.folder import OutputFolder
from datamodules.generate.masks import Mask, MaskFolder, random_mask
from datamodules.generate.options import fraction_name
from datamodules.generate.reals import Pixels, Real, Square, read_square
from datamodules.generate.sampling import noise_seed
from datamodules.generate.study import COLUMNS as STUDY_COLUMNS
from datamodules.generate.study import order
from datamodules.reader import ImageError
from datamodules.records import FAKE, REAL

if TYPE_CHECKING:
    from datamodules.generate.editing import Editor

SOURCE_COLUMNS = ("source_format", "source_width", "source_height", "source_bytes")
PROVENANCE = (
    *("source", "source_sha256", "kind", "model", "model_revision", "strength", "steps", "guidance", "scheduler", "seed", "prompt"),
    *("mask", "mask_kind"),
)
COLUMNS = (*STUDY_COLUMNS, "generated_fraction", *SOURCE_COLUMNS, *PROVENANCE)
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class Masking:
    """What part of an image is generated.

    Attributes:
        kind: `box`, `freeform`, or `given` for masks of a folder; empty where all of an image is generated.
        fractions: Shares of the pixels, a fake each; of random masks.
        folder: The user's masks; None for random ones.
    """

    kind: str = ""
    fractions: tuple[float, ...] = ()
    folder: MaskFolder | None = None


@dataclass(frozen=True)
class Storing:
    """How real and fake are stored: alike, with no metadata.

    Attributes:
        form: `png`, not compressed, so that all files of one size are as long as each other; or `jpeg`.
        quality: Of JPEG, 1 to 95; its chroma is subsampled 4:2:0.
    """

    form: str = "png"
    quality: int = 90

    def encode(self, pixels: Pixels) -> bytes:
        """The file of uint8 `[S, S, 3]`."""
        buffer = io.BytesIO()
        if self.form == "png":
            Image.fromarray(pixels).save(buffer, "PNG", compress_level=0)
        else:
            Image.fromarray(pixels).save(buffer, "JPEG", quality=self.quality, subsampling="4:2:0")
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Job:
    """One fake to be made.

    Attributes:
        square: Of which image.
        mask: What is generated, `[S, S]`; None for all of it.
        name: Name of its file, without suffix.
    """

    square: Square
    mask: Mask | None
    name: str


@dataclass(slots=True)
class Made:
    """What a run came to.

    Attributes:
        rows: Rows of the manifest.
        reals: Real images with a fake at least.
        fakes: Fakes, all in all.
        new: Fakes that this run made.
        skipped: Reason by id of each image that could not be used.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    reals: int = 0
    fakes: int = 0
    new: int = 0
    skipped: dict[str, str] = field(default_factory=dict)


class MatchedSet(OutputFolder):
    """Real images, each stored once as the square that its fakes are made of, and those fakes, in a folder of their own.

    A file is written whole or not at all, and no fake is made again. Images are taken in a random order that the seed and their ids decide.
    Where one cannot be used, or the pipeline refuses all its fakes, the next one takes its place.

    Args:
        folder: Where everything goes.
        settings: All that decides what is made, of plain types; a folder with other settings is refused.
        size: Side of all images in pixels.
        dataset: Name of the data set.
        generator: Name of what makes the fakes.
        told: Of the columns `PROVENANCE`, those that are the same for all fakes.
        prompt: Of all fakes; by default an image's own caption, and the empty prompt without one.
        masking: What part is generated.
        storing: How images are stored.
        seed: Another one chooses others and makes others.
        notes: Written beside the settings; not compared.
    """

    parts = ("reals", "fakes", "masks")
    sources = "--images"

    def __init__(
        self,
        folder: Path,
        settings: dict[str, Any],
        *,
        size: int,
        dataset: str,
        generator: str,
        told: dict[str, Any],
        prompt: str | None = None,
        masking: Masking | None = None,
        storing: Storing | None = None,
        seed: int = 0,
        notes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(folder, settings, notes)
        self.size = size
        self.dataset = dataset
        self.generator = generator
        self.told = told
        self.prompt = prompt
        self.masking = masking or Masking()
        self.storing = storing or Storing()
        self.seed = seed
        self._scheduler = self._commit = ""  # of the model that made what is there; known once anything is

    def make(
        self,
        reals: Sequence[Real],
        wanted: int,
        editor: "Callable[[], Editor]",
        batch_size: int,
        skipped: dict[str, str],
        on_reals: Callable[[int], object] = lambda count: None,
    ) -> Made:
        """Make what is missing, then write the manifest.

        Args:
            reals: All images to choose from.
            wanted: How many are to have fakes.
            editor: Called where anything is missing, once.
            batch_size: Fakes that are made at a time.
            skipped: Reasons by id of what is left out already.
            on_reals: Called with the number of further images that are done.

        Returns:
            What there is now; fewer images than wanted where there are not enough good ones.

        Raises:
            DataError: No image can be used, or what is there was made by another commit of the model.
        """
        made, refused = Made(skipped=dict(skipped)), self.refused()
        squares = self._squares(reals, made.skipped)
        loaded = cache(partial(self.load, editor))  # once, and only where a fake is missing
        at_once = max(1, batch_size // max(1, len(self.masking.fractions)))
        while made.reals < wanted and (chunk := list(islice(squares, min(at_once, wanted - made.reals)))):
            jobs = [job for square in chunk for job in self._jobs(square)]
            made.new += self._fill(jobs, loaded, batch_size, refused)
            done = made.reals
            self._scheduler, self._commit = self.stored("scheduler"), self.stored("commit")
            for square in chunk:
                self._take(square, [job for job in jobs if job.square is square], refused, made)
            on_reals(made.reals - done)
        self.finish(made.rows, COLUMNS, refused, made.skipped)
        return made

    def _fill(self, jobs: Sequence[Job], editor: "Callable[[], Editor]", batch_size: int, refused: dict[str, str]) -> int:
        """Make the fakes that are missing, a batch at a time; gives how many are new."""
        new = 0
        for start in range(0, len(jobs), batch_size):
            batch = jobs[start : start + batch_size]
            missing = {job.name for job in batch if job.name not in refused and not self._fake(job).is_file()}
            if missing:
                # All of them, though some may be there: in a batch of another size rounding would differ.
                self._edit(editor(), batch, missing, refused)
            new += len(missing - refused.keys())
        return new

    def _squares(self, reals: Sequence[Real], skipped: dict[str, str]) -> Iterator[Square]:
        """Good images in their random order, of each content one."""
        seen: set[str] = set()
        mask_of = None if self.masking.folder is None else self.masking.folder.read
        for real in sorted(reals, key=lambda each: (order(self.seed, each.id), each.id)):
            try:
                square = read_square(real, self.size, mask_of)
            except ImageError as error:
                skipped[real.id] = error.reason
                continue
            if square.stem in seen:
                skipped[real.id] = "another photograph has its content"
                continue
            seen.add(square.stem)
            yield square

    def _jobs(self, square: Square) -> list[Job]:
        if self.masking.kind in ("", "given"):
            return [Job(square, square.mask, square.stem)]
        seed = self._seed(square)
        return [
            Job(square, random_mask(self.masking.kind, fraction, self.size, seed), f"{square.stem}-{fraction_name(fraction)}")
            for fraction in self.masking.fractions
        ]

    def _edit(self, editor: "Editor", batch: Sequence[Job], missing: set[str], refused: dict[str, str]) -> None:
        squares = [job.square for job in batch]
        seeds = [self._seed(square) for square in squares]
        outcomes = editor.edit([square.pixels for square in squares], list(map(self._prompt, squares)), seeds, [job.mask for job in batch])
        self.claim()
        for job, outcome in zip(batch, outcomes, strict=True):
            if job.name not in missing:
                continue
            if isinstance(outcome, str):
                refused[job.name] = outcome
                self.refuse(refused)
                continue
            write_atomically(self._fake(job), self.storing.encode(outcome))

    def _take(self, square: Square, jobs: Sequence[Job], refused: dict[str, str], made: Made) -> None:
        """The rows of an image and its fakes, where there are any."""
        there = [job for job in jobs if job.name not in refused]
        made.skipped |= {f"{square.real.id} ({job.name})": refused[job.name] for job in jobs if job.name in refused}
        if not there:
            return
        path, content = self.folder / "reals" / f"{square.stem}{SUFFIXES[self.storing.form]}", self.storing.encode(square.pixels)
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)
        shared = self._shared(square)
        partly = bool(self.masking.kind)
        fraction_of_real = {"generated_fraction": 0.0} if partly else {}
        made.rows.append({**shared, **fraction_of_real, "path": self._named(path), "label": REAL, "generator": square.real.generator})
        made.rows += [{**shared, **self.told, **self._of_fake(job)} for job in there]
        made.reals += 1
        made.fakes += len(there)

    def _shared(self, square: Square) -> dict[str, Any]:
        """What a real image and its fakes have in common."""
        pair = f"photograph/{square.stem}"  # by content: the same photograph in another set is the same pair
        return {
            "dataset": self.dataset,
            "group": square.real.group or pair,
            "pair": pair,
            "split": square.real.split,
            "caption": square.real.caption,
            "caption_source": square.real.caption_source,
            "source_format": square.format,
            "source_width": square.width,
            "source_height": square.height,
            "source_bytes": square.bytes,
            "source": square.real.id,
            "source_sha256": square.digest,
        }

    def _of_fake(self, job: Job) -> dict[str, Any]:
        """What is a fake's own."""
        row = {"path": self._named(self._fake(job)), "label": FAKE, "generator": self.generator, "scheduler": self._scheduler}
        row["model_revision"] = self._commit or self.told["model_revision"]
        if self.told["kind"] != "autoencoder":
            row |= {"seed": self._seed(job.square), "prompt": self._prompt(job.square)}
        if job.mask is not None:
            self._write_mask(self._mask(job), job.mask)
            row |= {"mask": self._named(self._mask(job)), "mask_kind": self.masking.kind, "generated_fraction": float(job.mask.mean())}
        return row

    def _write_mask(self, path: Path, mask: Mask) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.where(mask, np.uint8(255), np.uint8(0))).save(buffer, "PNG")
        if not path.is_file() or path.read_bytes() != buffer.getvalue():
            write_atomically(path, buffer.getvalue())

    def _seed(self, square: Square) -> int:
        return noise_seed(self.seed, square.digest)

    def _prompt(self, square: Square) -> str:
        return square.real.caption if self.prompt is None else self.prompt

    def _fake(self, job: Job) -> Path:
        return self.folder / "fakes" / f"{job.name}{SUFFIXES[self.storing.form]}"

    def _mask(self, job: Job) -> Path:
        return self.folder / "masks" / f"{job.name}.png"

    def _named(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()
