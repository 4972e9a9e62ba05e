"""A folder of images that are all of one kind."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from datamodules.errors import DataError
from datamodules.records import FAKE, REAL, SPLITS, Record
from datamodules.sources.base import Source, safe_name
from datamodules.sources.folder import images_below


class ImagesSource(Source):
    """All images below one folder, of one generator or from one source of real images.

    Args:
        root: The folder.
        generator: Name of the generator; for real images the source of the reals. The folder's name by default.
        kind: `fake` or `real`.
        dataset: Name of the data set; the folder's by default.
        family: Family of the generator; what the family map says by default.
        split: `train`, `val` or `test` for all of them; cut by the data module by default.
    """

    def __init__(
        self,
        root: str,
        generator: str | None = None,
        kind: Literal["fake", "real"] = "fake",
        dataset: str | None = None,
        family: str | None = None,
        split: str | None = None,
    ) -> None:
        super().__init__()
        if split is not None and split not in SPLITS:
            message = f"split is {split!r}: it is one of {', '.join(SPLITS)}, or left out."
            raise DataError(message)
        self.root = root
        self.generator = generator
        self.kind = kind
        self.dataset = dataset
        self.family = family
        self.split = split

    @property
    def _folder(self) -> Path:
        return Path(self.root).expanduser().absolute()

    @property
    def name(self) -> str:
        """Short name, safe in a file's name."""
        return safe_name(self.dataset or self._folder.resolve().name)

    @property
    def location(self) -> str:
        """Path of the folder."""
        return str(self._folder)

    def entries(self, cache_dir: Path) -> Iterator[Record]:
        """One record an image, in the order of their names.

        Args:
            cache_dir: Not used.

        Raises:
            DataError: No such folder.
        """
        if not self._folder.is_dir():
            message = f"The folder {self._folder} {'is a file' if self._folder.exists() else 'does not exist'}: name a folder of images."
            raise DataError(message)
        own = self._folder.resolve().name
        for path in images_below(self._folder, self.skip):
            label = FAKE if self.kind == "fake" else REAL
            family = self.family or "unknown"
            yield Record("", label, self.dataset or own, self.generator or own, path=path, family=family, split=self.split)
