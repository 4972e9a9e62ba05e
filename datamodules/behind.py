"""Work that one thread does while its caller goes on."""

import threading
from collections.abc import Callable
from queue import Queue
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Behind(Generic[Item]):
    """Does something with one item after the other, in their order, in a thread of its own.

    What fails is raised where the next item is handed over, or at the end; items after it are let go.

    Args:
        work: What is done with an item.
        waiting: Items that may wait; whoever hands over more waits, so that memory stays flat.
    """

    def __init__(self, work: Callable[[Item], None], waiting: int = 2) -> None:
        self._work = work
        self._queue: Queue[list[Item]] = Queue(waiting)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def put(self, item: Item) -> None:
        """Hand an item over.

        Raises:
            BaseException: What an earlier item failed with.
        """
        self._check()
        if self._thread is None:  # only now: processes that are forked before the first item know nothing of it
            self._thread = threading.Thread(target=self._run, name="behind", daemon=True)
            self._thread.start()
        self._queue.put([item])

    def finish(self) -> None:
        """Wait until everything is done; more may follow after it.

        Raises:
            BaseException: What an item failed with.
        """
        if self._thread is not None:
            self._queue.put([])
            self._thread.join()
            self._thread = None
        self._check()

    def _check(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _run(self) -> None:
        while items := self._queue.get():
            if self._error is None:
                try:
                    self._work(items[0])
                except BaseException as error:
                    self._error = error
            del items  # or its memory would wait for the next one
