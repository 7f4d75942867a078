"""Ctrl-C that waits for compiled libraries to load."""

from collections.abc import Iterator
from contextlib import contextmanager
import signal


@contextmanager
def deferred_interrupt() -> Iterator[None]:
    """
    Hold SIGINT back until the block ends, then raise KeyboardInterrupt.

    An exception in the middle of a C++ library's start-up ends the process with SIGABRT.
    """
    pending: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: pending.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt
