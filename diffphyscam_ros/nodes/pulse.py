"""How long the executor was held up: a timer that beats, while somebody wants to know."""

import time

from rclpy.clock import Clock, ClockType
from rclpy.node import Node

#: [s] between two beats; what is longer has held the executor up.
PERIOD = 0.01
#: [s] The longest time for which callbacks of the node may hold the executor up.
LIMIT = 0.05


class Pulse:
    """
    Beats in the executor's thread; a late beat tells of whatever kept that thread from running.

    Other callbacks do, and so does the interpreter's lock in the hands of the threads that step
    the world and develop frames.
    """

    def __init__(self, node: Node) -> None:
        """Prepare; nothing beats, and nothing is spent, before :meth:`start`."""
        self._longest, self._last = 0.0, time.monotonic()
        self._timer = node.create_timer(PERIOD, self._beat,
                                        clock=Clock(clock_type=ClockType.STEADY_TIME))
        self._timer.cancel()

    def start(self) -> None:
        """Beat from now on."""
        if self._timer.is_canceled():
            self._longest, self._last = 0.0, time.monotonic()
            self._timer.reset()

    def stop(self) -> None:
        """Rest."""
        self._timer.cancel()

    def take(self) -> float:
        """Longest time [s] for which the executor was held up since this was last asked."""
        longest, self._longest = self._longest, 0.0
        return longest

    def status(self) -> tuple[str, str, bool, dict]:
        """Name, sentence, whether it is well, figures: since this was last asked."""
        longest = self.take()
        well = longest <= LIMIT
        return ('executor', 'running' if well else f'held up for over {1e3 * LIMIT:.0f} ms', well,
                {'longest hold-up [ms]': f'{1e3 * longest:.1f}'})

    def _beat(self) -> None:
        now = time.monotonic()
        self._longest = max(self._longest, now - self._last - PERIOD)
        self._last = now
