"""The folder that a command fills: its settings, what is left out, and last the manifest."""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from datamodules.errors import DataError
from datamodules.files import remove_leftovers, write_atomically
from datamodules.hashing import open_regular

SETTINGS, SKIPPED, MANIFEST = "settings.json", "skipped.json", "manifest.csv"


class Model(Protocol):
    """What makes fakes.

    Attributes:
        notes: What is known of the model once it is loaded; of one of the hub its `commit`.
    """

    notes: dict[str, str]


Loaded = TypeVar("Loaded", bound=Model)


class OutputFolder:
    """A folder that belongs to one set of settings.

    Args:
        folder: Where everything goes.
        settings: All that decides what is made, of plain types; a folder with other settings is refused.
        notes: Written beside the settings; not compared.
    """

    parts: tuple[str, ...] = ("reals", "fakes")
    """Names of the folders in it that hold images."""
    sources: str = "--images and --captions"
    """The options that say where photographs come from."""

    def __init__(self, folder: Path, settings: dict[str, Any], notes: dict[str, Any] | None = None) -> None:
        self.folder = folder
        self.settings = settings
        self.notes = notes or {}

    def check(self) -> None:
        """See that the folder is new or of these settings, and remove what a process that was killed left unfinished.

        Raises:
            DataError: It holds something else, or a study with other settings.
        """
        path = self.folder / SETTINGS
        if path.exists():
            self._compare(_read(path))
        elif self.folder.is_dir() and any(not entry.name.startswith(".") for entry in self.folder.iterdir()):
            msg = f"--output {self.folder} is not empty, and has no {SETTINGS} of a study: name another folder, or empty it"
            raise DataError(msg)
        for folder in (self.folder, *(self.folder / part for part in self.parts)):
            remove_leftovers(folder)

    def _compare(self, stored: dict[str, Any]) -> None:
        there = stored.get("settings")
        there = there if isinstance(there, dict) else {}
        names = sorted(there.keys() | self.settings.keys())
        if stored.get("commit") and self.settings.get("revision") == stored["commit"]:
            names.remove("revision")  # of a branch that has moved, the commit that it was: the model is the same
        differ = [name for name in names if there.get(name) != self.settings.get(name)]
        if differ:
            told = "; ".join(f"{name} is {_shown(there.get(name))} there and {_shown(self.settings.get(name))} now" for name in differ)
            msg = f"--output {self.folder} holds a study with other settings ({told}): repeat those, or name another folder"
            raise DataError(msg)

    def load(self, model: Callable[[], Loaded]) -> Loaded:
        """Load the model, and note what is known of it.

        Raises:
            DataError: What is there was made by another commit of it.
        """
        loaded = model()
        there, now = self.stored("commit"), loaded.notes.get("commit", "")
        if there and now and there != now:
            msg = (
                f"--output {self.folder} was begun with the commit {there} of the model, which is now at {now}: go on with "
                f"--revision {there}, or name another folder"
            )
            raise DataError(msg)
        self.notes |= loaded.notes
        return loaded

    def claim(self) -> None:
        """Write the settings where they are not there yet: once a model took them, so that refused ones do not claim the folder."""
        if not (self.folder / SETTINGS).exists():
            write_atomically(self.folder / SETTINGS, _json({"settings": self.settings, **self.notes}))

    def stored(self, name: str) -> str:
        """A note of an earlier run; empty where there is none."""
        path = self.folder / SETTINGS
        return str(_read(path).get(name) or "") if path.exists() else ""

    def refused(self) -> dict[str, str]:
        """What the pipeline refused to show, by earlier runs: reason by id.

        Raises:
            DataError: The file that says so is damaged.
        """
        path = self.folder / SKIPPED
        found = _read(path).get("refused") if path.exists() else {}
        if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
            msg = f"{path} is damaged: delete it, and those photographs are tried again"
            raise DataError(msg)
        return found

    def refuse(self, refused: Mapping[str, str]) -> None:
        """Remember what the pipeline refuses to show, so that it is not asked again."""
        write_atomically(self.folder / SKIPPED, _json({"refused": dict(refused)}))

    def finish(
        self, rows: Sequence[Mapping[str, Any]], columns: Sequence[str], refused: Mapping[str, str], skipped: Mapping[str, str]
    ) -> None:
        """Write what is left out, and last the manifest.

        Args:
            rows: Of the manifest.
            columns: Their names.
            refused: What the pipeline refused to show.
            skipped: All that is left out, with the reasons.

        Raises:
            DataError: There are no rows.
        """
        if not rows:
            name, reason = next(iter(skipped.items()))
            msg = f"no photograph could be used: check {self.sources}. For example {name[:80]!r}: {reason}"
            raise DataError(msg)
        write_atomically(self.folder / SKIPPED, _json({"refused": dict(refused), "skipped": dict(skipped)}))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomically(self.folder / MANIFEST, text.getvalue().encode())


def _read(path: Path) -> dict[str, Any]:
    try:
        with open_regular(path) as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        msg = f"{path} cannot be read as JSON ({' '.join(str(error).split())[:200]}): name another --output, or delete that folder"
        raise DataError(msg) from error
    return content if isinstance(content, dict) else {}


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=1).encode()


def _shown(value: Any) -> str:
    return json.dumps(value)[:60]
