"""A lock that a forked child finds open."""

import os
import threading
from types import TracebackType

__all__ = ["ForkLock"]


class ForkLock:
    """A re-entrant lock; in a forked child it is new.

    A thread that holds a lock while another one forks does not come along into the child, where
    the lock would stay shut.
    """

    def __init__(self) -> None:
        self._renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()
