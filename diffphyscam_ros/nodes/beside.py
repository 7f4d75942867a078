"""What runs beside a node on this machine: processes that finish their files, and executors."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import random
import signal
import subprocess
import sys
import time

from rclpy.executors import Executor, SingleThreadedExecutor

from diffphyscam_ros.errors import InputError


def stay_on_this_machine() -> None:
    """Talk to this machine only, in a domain of its own, unless the user chose otherwise."""
    os.environ.setdefault('ROS_AUTOMATIC_DISCOVERY_RANGE', 'LOCALHOST')
    os.environ.setdefault('ROS_DOMAIN_ID', str(random.randint(1, 101)))


@contextmanager
def process(module: str, *arguments: str, stdout: int | None = None
            ) -> Iterator[subprocess.Popen]:
    """
    Run a module of ``diffphyscam_ros.nodes``; at the end let it finish its files, for 30 s.

    Ctrl-C is for us alone: the process gets its SIGINT here.
    """
    child = subprocess.Popen([sys.executable, '-m', f'diffphyscam_ros.nodes.{module}',
                              *arguments], stdout=stdout, text=True, start_new_session=True)
    try:
        yield child
    finally:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def quick_executor() -> Executor:
    """
    Return an executor for nodes whose topics, services and timers stay as they are.

    It is told what has come in, where the ordinary one looks at everything after every message: a
    third of the time for a simulator and its driver. To ROS it is still experimental.
    """
    try:
        from rclpy.experimental import EventsExecutor
    except ImportError:
        return SingleThreadedExecutor()
    return EventsExecutor()


def spin_until(executor: Executor, condition: Callable[[], object], seconds: float,
               complaint: str) -> None:
    """Serve callbacks until ``condition`` holds; else InputError says ``complaint``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise InputError(complaint)
        executor.spin_once(timeout_sec=0.05)
