"""Something that must never be unpickled."""

import os
from pathlib import Path


class Evil:
    """Leaves a mark on disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))
