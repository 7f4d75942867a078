"""Work aside: a callback waits for a thread, the executor does not."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
import time
from typing import TypeVar

Result = TypeVar('Result')

#: [s] of rest per turn of a waiting coroutine.
_TURN = 0.005


class Pause:
    """
    Let the executor do other work, then come back.

    rclpy polls a waiting coroutine without rest; 5 ms of sleep per turn keep a core free and
    hold nothing up that matters.
    """

    def __await__(self) -> Iterator[None]:
        time.sleep(_TURN)
        yield


class Aside:
    """
    A thread for what waits for the disk: a rename takes 50 ms when others write, too.

    Its jobs run one after the other in the order in which they came. Callbacks that wait for
    them belong into a reentrant group, or all others of theirs wait, too.
    """

    def __init__(self) -> None:
        """Prepare; the thread starts with its first job."""
        self._threads = ThreadPoolExecutor(1, thread_name_prefix='aside')

    async def run(self, job: Callable[..., Result], *arguments: object) -> Result:
        """Return what ``job(*arguments)`` returns, or raise what it raises."""
        future = self._threads.submit(job, *arguments)
        while not future.done():
            await Pause()
        return future.result()

    def close(self) -> None:
        """Finish what was begun, then end the thread."""
        self._threads.shutdown()
