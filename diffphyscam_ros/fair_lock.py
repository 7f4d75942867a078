"""A lock that a busy loop cannot keep for itself."""

import threading


class FairLock:
    """
    A reentrant lock that whoever waits for gets next.

    A thread that releases an ordinary lock and takes it again at once, step after step, gets it
    nearly every time: who waits has to wake up first. Here the one who waits already holds the
    turn, and the loop queues for the turn behind it.
    """

    def __init__(self) -> None:
        self._turn, self._lock = threading.Lock(), threading.Lock()
        self._owner, self._depth = 0, 0

    def __enter__(self) -> 'FairLock':
        me = threading.get_ident()
        if self._owner != me:           # only this thread itself could make the two equal
            with self._turn:
                self._lock.acquire()
            self._owner = me
        self._depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._owner = 0
            self._lock.release()
