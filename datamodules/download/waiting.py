"""Which address is asked for next: no host is asked for more than a few at a time, and none keeps the others waiting."""

import heapq
import itertools
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass

_HOSTS = 100_000  # of which failures are remembered


@dataclass(slots=True)
class Address:
    """An address to ask for.

    Attributes:
        id: `address_id` of it.
        url: Cleaned.
        host: Which it counts for, empty where it names none.
        tries: How often it was asked for.
        seconds: That its tries took.
    """

    id: str
    url: str
    host: str
    tries: int = 0
    seconds: float = 0.0


class Waiting:
    """Addresses that wait for their turn, by host.

    Args:
        per_host: Addresses of one host that are asked for at a time.
        give_up: Connections to one host in a row that could not be made, after which the host counts as dead; 0 for never.
    """

    def __init__(self, per_host: int, give_up: int) -> None:
        self._per_host = per_host
        self._give_up = give_up
        self._queues: dict[str, deque[Address]] = {}
        self._ready: deque[str] = deque()  # hosts with a queue and a free place
        self._running: Counter[str] = Counter()
        self._later: list[tuple[float, int, Address]] = []
        self._order = itertools.count()
        self._silent: OrderedDict[str, int] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count + len(self._later)

    def add(self, address: Address, first: bool = False) -> None:
        """Let an address wait for its turn, which is the next of its host where `first` is set."""
        queue = self._queues.get(address.host)
        if queue is None:
            queue = self._queues[address.host] = deque()
            if self._running[address.host] < self._per_host:
                self._ready.append(address.host)
        queue.appendleft(address) if first else queue.append(address)
        self._count += 1

    def add_later(self, address: Address, time: float) -> None:
        """Let an address wait until a time, and then for its turn."""
        heapq.heappush(self._later, (time, next(self._order), address))

    def take(self, now: float) -> Address | None:
        """The next address whose host has a free place, which it takes until `done`; None where there is none now."""
        while self._later and self._later[0][0] <= now:
            self.add(heapq.heappop(self._later)[2], first=True)
        if not self._ready:
            return None
        host = self._ready.popleft()
        queue = self._queues[host]
        address = queue.popleft()
        self._count -= 1
        self._running[host] += 1
        if not queue:
            del self._queues[host]
        elif self._running[host] < self._per_host:
            self._ready.append(host)
        return address

    def next_time(self) -> float | None:
        """When the next address that waits for a time is due."""
        return self._later[0][0] if self._later else None

    def done(self, host: str) -> None:
        """Free a host's place."""
        if self._running[host] == self._per_host and host in self._queues:
            self._ready.append(host)
        self._running[host] -= 1
        if not self._running[host]:
            del self._running[host]

    def heard(self, host: str, answered: bool) -> None:
        """Note whether a host could be connected to."""
        if answered:
            self._silent.pop(host, None)
            return
        self._silent[host] = self._silent.get(host, 0) + 1
        self._silent.move_to_end(host)
        if len(self._silent) > _HOSTS:
            self._silent.popitem(last=False)

    def is_dead(self, host: str) -> bool:
        """Whether a host counts as dead."""
        return 0 < self._give_up <= self._silent.get(host, 0)
