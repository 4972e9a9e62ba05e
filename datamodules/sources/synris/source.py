"""SynRIS as a source of records."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from datamodules.errors import DataError
from datamodules.hashing import ContentHashes
from datamodules.records import FAKE, REAL, Record
from datamodules.sources.base import MEMO, Source, safe_name
from datamodules.sources.folder import images_below
from datamodules.sources.synris.groups import connected
from datamodules.sources.synris.lists import MAX_DIGITS, Listed, list_files, read_list
from datamodules.sources.synris.survival import Survival, survival_text

logger = logging.getLogger(__name__)

REALS = "reverse-image-search"
"""What the source of the real images is called."""


@dataclass(slots=True)
class _Images:
    """What is there of one generator.

    Attributes:
        listed: Its list.
        reals: Path and content hash by prompt index of the real images that its list has an address for.
        fakes: The same of all its generated images, listed or not.
        unreadable: Number of files of listed prompts that cannot be used.
    """

    listed: Listed
    reals: dict[int, tuple[str, str]]
    fakes: dict[int, tuple[str, str]]
    unreadable: int

    @property
    def pairs(self) -> list[int]:
        """Prompts of which both images are there, in order."""
        return sorted(self.listed.addresses.keys() & self.reals.keys() & self.fakes.keys())

    def marks(self, index: int) -> list[str]:
        """What tells the images of a prompt: addresses of the real one, and contents."""
        marks = [f"content {self.fakes[index][1]}"]
        if index in self.reals:
            marks += [f"content {self.reals[index][1]}", *sorted(f"url {address}" for address in self.listed.addresses[index])]
        return marks

    def survival(self) -> Survival:
        """Its line of the table."""
        listed = self.listed
        with_url = sum(bool(found) for found in listed.addresses.values())
        return Survival(
            generator=listed.generator,
            lines=listed.lines,
            unusable=listed.unusable,
            doubled=listed.doubled,
            prompts=len(listed.addresses),
            with_url=with_url,
            without_url=len(listed.addresses) - with_url,
            reals=len(self.reals),
            fakes=len(listed.addresses.keys() & self.fakes.keys()),
            unreadable=self.unreadable,
            pairs=len(self.pairs),
        )


class SynRISSource(Source):
    """Generated images, each with a real one that reverse image search found for it (Cazenavette et al. 2024, "FakeInversion").

    The images lie in `<fakes>/<generator>/` and `<reals>/<generator>/`, in folders below them or not, with a name that holds the prompt
    index: `dalle3/00012.png` is of `prompt_index` 12. Nothing is fetched here: real images are those files that are there, and how many
    pairs are left stands in `survival`, which is logged whenever the source is read. Of several files of one prompt the first by name is
    used. A real image is used only where its list has an address for its prompt.

    Each generator is a data set of its own, `synris/<generator>`, since it is measured against its own real images; all are of the split
    `test`. A real image and its fake share the pair `<generator>/<prompt_index>`. Prompts are groups. Prompts become one group where they
    have an address in common, or a file of the same content: one photograph that was found several times is not several.

    Args:
        path: The list of one generator (`dalle3.jsonl`, which names it), or a folder of such lists.
        reals: Folder of the real images.
        fakes: Folder of the generated images.
        dataset: First part of the data sets' names.
        only_pairs: Leave out generated images without a real one; otherwise they are there without a pair.
        shared_prompts: Prompts of the same index are one group over all generators. Where generators were given different prompts it may
            be switched off; left on, it costs nothing but a wider interval of means over generators.
        stem: Regular expression that a file's name without suffix must match as a whole; its first group is the prompt index.

    Raises:
        DataError: `stem` is no such expression.
    """

    def __init__(
        self,
        path: str,
        reals: str,
        fakes: str,
        dataset: str = "synris",
        only_pairs: bool = True,
        shared_prompts: bool = True,
        stem: str = r"(\d+)",
    ) -> None:
        super().__init__()
        try:
            groups = re.compile(stem).groups
        except re.error as error:
            message = f"stem is {stem!r}, which is no regular expression: {error}."
            raise DataError(message) from error
        if not groups:
            message = rf"stem is {stem!r}: put the prompt index in parentheses, for example 'image_(\d+)'."
            raise DataError(message)
        self.path = path
        self.reals = reals
        self.fakes = fakes
        self.dataset = dataset
        self.only_pairs = only_pairs
        self.shared_prompts = shared_prompts
        self.stem = stem
        self._survival: list[Survival] | None = None

    @property
    def _path(self) -> Path:
        return Path(self.path).expanduser().absolute()

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self.dataset if self._path.is_dir() else f"{self.dataset}-{self._path.stem}")

    @property
    def location(self) -> str:
        """Path of the lists."""
        return str(self._path)

    def survival(self, cache_dir: str | Path = "cache") -> list[Survival]:
        """How many pairs are left, by generator, as the source was last read; it is read first where it was not.

        Args:
            cache_dir: Folder of the cache; content hashes are remembered in it.
        """
        if self._survival is None:
            self.failures = []
            self._found(Path(cache_dir))
        return list(self._survival or [])

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """The images of each pair, the real one first, by generator and prompt; where asked for, fakes without a pair among them.

        Args:
            cache_dir: Folder of the cache; content hashes are remembered in it.

        Raises:
            DataError: A list or a folder cannot be read; the message names file and line.
        """
        found = self._found(cache_dir)
        groups = self._groups(found)
        for images in found:
            generator = images.listed.generator
            pairs = set(images.pairs)
            for index in sorted(images.fakes):
                paired = index in pairs
                if not paired and self.only_pairs:
                    continue
                fake = Record(
                    key="",
                    label=FAKE,
                    dataset=f"{self.dataset}/{generator}",
                    generator=generator,
                    path=images.fakes[index][0],
                    split="test",
                    group=groups[self._prompt(generator, index)],
                    pair=f"{generator}/{index}" if paired else None,
                )
                if paired:
                    yield replace(fake, label=REAL, generator=REALS, path=images.reals[index][0], family="real")
                yield fake

    def _found(self, cache_dir: Path) -> list[_Images]:
        """Everything that is there, by generator; sets the survival table."""
        files = self._lists()
        for folder, option in ((self.reals, "reals"), (self.fakes, "fakes")):
            if not os.path.isdir(Path(folder).expanduser()):
                message = f"{option} is {folder}, which is no folder: it should hold a folder of images for each generator."
                raise DataError(message)
        hashes = ContentHashes(cache_dir / MEMO)
        found = [self._images(read_list(file, self.skip), hashes) for file in files]
        self._survival = [images.survival() for images in found]
        logger.info("%s:\n%s", self.location, survival_text(self._survival))
        return found

    def _lists(self) -> list[Path]:
        try:
            return list_files(self._path)
        except OSError as error:
            message = f"{self._path} cannot be read ({error.strerror}): check the path."
            raise DataError(message) from error

    def _images(self, listed: Listed, hashes: ContentHashes) -> _Images:
        """The images of one generator; every one that is not used is recorded with its reason."""
        reals, fakes = (self._by_prompt(folder, listed.generator) for folder in (self.reals, self.fakes))
        for index in sorted(reals):
            if not listed.addresses.get(index):
                told = "has no address for its prompt" if index in listed.addresses else "does not name its prompt"
                self.skip(reals.pop(index), f"the list {told}")
        images = _Images(listed, self._readable(reals, hashes), self._readable(fakes, hashes), 0)
        images.unreadable = len(reals) - len(images.reals) + len(listed.addresses.keys() & (fakes.keys() - images.fakes.keys()))
        for index in sorted(images.reals.keys() - images.fakes.keys()):
            self.skip(images.reals[index][0], "its generated image is not there, or cannot be read")
        if self.only_pairs:
            for index in sorted(images.fakes.keys() - images.reals.keys()):
                self.skip(images.fakes[index][0], self._why_alone(listed, index, index in reals))
        return images

    def _why_alone(self, listed: Listed, index: int, lies_there: bool) -> str:
        if index not in listed.addresses:
            return "the list does not name its prompt"
        if not listed.addresses[index]:
            return "no real image was found for it: the list has no address"
        return f"its real image {'cannot be read' if lies_there else f'is not in {os.path.join(self.reals, listed.generator)}'}"

    def _by_prompt(self, folder: str, generator: str) -> dict[int, str]:
        """Path of a generator's images by prompt index; nothing where it has no folder."""
        paths: dict[int, str] = {}
        own = Path(folder).expanduser().absolute() / generator
        if not os.path.isdir(own):
            self.skip(str(own), "there is no such folder")
            return paths
        for path in images_below(own, self.skip):
            match = re.fullmatch(self.stem, os.path.splitext(os.path.basename(path))[0], re.ASCII)
            digits = (match[1] or "") if match else ""
            if not (digits.isascii() and digits.isdecimal() and len(digits.lstrip("0")) <= MAX_DIGITS):
                self.skip(path, f"its name holds no prompt index (it does not match {self.stem!r})")
            elif int(digits) in paths:
                self.skip(path, f"{paths[int(digits)]} is of the same prompt")
            else:
                paths[int(digits)] = path
        return paths

    def _readable(self, paths: dict[int, str], hashes: ContentHashes) -> dict[int, tuple[str, str]]:
        """Path and content hash of those files that can be read and are not empty: a pair needs both."""
        usable = {}
        for (index, path), hashed in zip(paths.items(), hashes.hash_files(list(paths.values())), strict=True):
            reason = hashed.reason or ("" if hashed.size else "the file is empty")
            if not reason and path.encode("utf-8", "replace").decode() != path:
                reason = "the name is not valid UTF-8, which no table can hold: rename the file"
            if reason:
                self.skip(path, reason)
            else:
                usable[index] = (path, hashed.digest)
        return usable

    def _prompt(self, generator: str, index: int) -> str:
        return f"{self.dataset}/prompt-{index}" if self.shared_prompts else f"{self.dataset}/{generator}/prompt-{index}"

    def _groups(self, found: Sequence[_Images]) -> dict[str, str]:
        """Group of each prompt: the first of those that are connected by an address or a content."""
        return connected(
            (self._prompt(images.listed.generator, index), images.marks(index))
            for images in found
            for index in (images.pairs if self.only_pairs else sorted(images.fakes))
        )
