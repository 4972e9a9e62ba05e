"""What can become of an address."""

from dataclasses import dataclass
from typing import Any

ARRIVED = "arrived"
DEAD, REFUSED, NOT_IMAGE, TOO_LARGE, TIMED_OUT = "dead", "refused", "not_image", "too_large", "timed_out"
FAILURES = (DEAD, REFUSED, NOT_IMAGE, TOO_LARGE, TIMED_OUT)
"""Why an image did not arrive: no answer or an error from its host; not asked for; no image that the reader takes; over the limit of
bytes; too slow."""


class FetchError(Exception):
    """An image that does not arrive.

    Attributes:
        status: One of `FAILURES`.
        reason: One sentence for a person; what is of one image only stands after a colon.
        http: The server's answer, 0 where there was none.
        heals: Whether another try may succeed.
        wait: Seconds that the server asks to wait before it; None where it does not say.
        unreachable: Whether the host could not be connected to, so that its other addresses will not arrive either.
    """

    def __init__(
        self, status: str, reason: str, http: int = 0, heals: bool = False, wait: float | None = None, unreachable: bool = False
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.http = http
        self.heals = heals
        self.wait = wait
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Outcome:
    """A row of the journal: what became of one address.

    Attributes:
        id: Of the address, `address_id`.
        url: The address, cut where it is very long.
        status: `arrived`, or one of `FAILURES`.
        reason: Why it did not arrive.
        http: The last answer of the server, 0 without one.
        tries: How often it was asked for.
        bytes: Length of the image.
        sha256: Of the image, 64 hex digits.
        path: Of the image, relative to the folder.
        host: That the image came from, after redirects.
        seconds: That all tries took together, without the waiting between them.
        time: When it was decided, UTC.
    """

    id: str
    url: str
    status: str
    reason: str = ""
    http: int = 0
    tries: int = 0
    bytes: int = 0
    sha256: str = ""
    path: str = ""
    host: str = ""
    seconds: float = 0.0
    time: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Without what is empty."""
        return {name: value for name in self.__slots__ if (value := getattr(self, name)) or name == "status"}
