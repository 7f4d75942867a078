"""Drift watch of a node: every few seconds one live frame is held against the twin."""

from collections.abc import Callable
import threading
import time

from rclpy.node import Node

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.nodes.recalibration_sources import Sources
from diffphyscam_ros.recalibrate.job import Twin
from diffphyscam_ros.recalibrate.monitor import Monitor
from diffphyscam_ros.recalibrate.options import RecalibrationOptions

#: [s] of listening: poses on both sides of the frame must be there.
_LISTEN = 0.5


class DriftWatch:
    """Looks at the live camera now and then; a thread renders and compares."""

    def __init__(self, node: Node, snapshot: Callable[[], tuple[PhysicalCamera, Twin]]) -> None:
        """Prepare; :meth:`look` does the work."""
        self._node, self._snapshot = node, snapshot
        self.monitor = Monitor()
        self._sources: Sources | None = None
        self._due = 0.0

    def look(self, options: RecalibrationOptions) -> None:
        """Start to listen when it is time, compare when a frame is there; call it often."""
        if not (options.monitor and options.image_topic and options.pose_topic):
            self.close()
            return
        now = time.monotonic()
        if self._sources is None:
            if now > self._due:
                self._sources = Sources(self._node, options, seconds=0.0, keep=1)
                self._due = now + options.monitor
            return
        picture = self._sources.latest()
        if picture is None or self._sources.passed < _LISTEN or not self._sources.posed:
            return
        poses = self._sources.trajectory()
        self.close()
        if poses.covers(picture.stamp, options.pairing_tolerance):
            threading.Thread(target=self.monitor.compare, daemon=True,
                             args=(picture, poses, *self._snapshot(), options)).start()

    def close(self) -> None:
        """Stop listening."""
        if self._sources is not None:
            self._sources.close()
            self._sources = None
