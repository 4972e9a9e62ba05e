"""Which kind of place an address means.

The scheme decides, by an allow-list: `pipe:` and all that fsspec could chain or run otherwise (`simplecache::`, `ssh:`, `reference:`) are
refused before any library sees them.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from datamodules.errors import DataError
from datamodules.sources.tars.fetch import Access, is_address, shown
from datamodules.streaming.options import StreamOptions
from datamodules.streaming.places import LocalPlace, Place
from datamodules.streaming.stores import STORES, StorePlace
from datamodules.streaming.web import Connections, HttpPlace

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def place_of(options: StreamOptions) -> Place:
    """The place that options name.

    Raises:
        DataError: The scheme is not one of those that are read, or its package is not installed.
    """
    url = (options.url or "").strip()
    if is_address(url):
        return HttpPlace(url.rstrip("/"), Connections(Access(options.allow_http, options.allow_private)))
    found = _SCHEME.match(url)
    if "::" in url or (found and found[1].lower() not in (*STORES, "file")):
        message = (
            f"data.stream.url is {shown(url)[:80]!r}: only https addresses, {', '.join(f'{scheme}:' for scheme in STORES)} and paths are "
            "read; no command is ever run"
        )
        raise DataError(message)
    if found and found[1].lower() == "file":
        return LocalPlace(Path(urlsplit(url).path))
    return StorePlace(url.rstrip("/")) if found else LocalPlace(Path(url).expanduser())
