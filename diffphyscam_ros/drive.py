"""
A built-in driver: a path that weaves through the cones of a scene, and pure pursuit along it.

Pure pursuit: R. C. Coulter, Implementation of the Pure Pursuit Path Tracking Algorithm,
CMU-RI-TR-92-01, 1992: steer on the circle through a point of the path one look-ahead away.
"""

from dataclasses import dataclass
import math

import numpy as np
from scipy.interpolate import CubicSpline

from diffphyscam_ros.scene.config import SceneConfig

#: [m] between the points of a path.
SPACING = 0.05


@dataclass(frozen=True)
class Driver:
    """What kind of a driver."""

    speed: float = 1.6
    """[m/s] on straights."""
    lateral_acceleration: float = 1.6
    """[m/s^2] in bends: slows down for them."""
    lookahead: float = 0.7
    """[m]"""


class PathFollower:
    """Drives along a closed path, for ever."""

    def __init__(self, path: np.ndarray, driver: Driver | None = None) -> None:
        """
        Prepare for ``path``.

        :param path: (N, 2) [m], points ``SPACING`` apart, the last one beside the first.
        """
        self.path, self.driver = path, driver or Driver()
        self.speeds = _speeds(path, self.driver)
        self._nearest = 0

    def command(self, x: float, y: float, yaw: float) -> tuple[float, float]:
        """Velocity [m/s] and yaw rate [rad/s] for a vehicle at (x, y) [m], yaw [rad]."""
        count = len(self.path)
        # Only ahead of the last place: where the path crosses itself, do not change branches.
        window = (self._nearest + np.arange(-10, round(2.0 / SPACING))) % count
        distance = np.linalg.norm(self.path[window] - (x, y), axis=1)
        self._nearest = int(window[distance.argmin()])
        ahead = (self._nearest + round(self.driver.lookahead / SPACING)) % count
        dx, dy = self.path[ahead] - (x, y)
        left = -math.sin(yaw) * dx + math.cos(yaw) * dy
        curvature = 2 * left / max(dx * dx + dy * dy, 1e-3)
        speed = float(self.speeds[self._nearest])
        return speed, speed * curvature


def slalom_path(scene: SceneConfig, *, clearance: float = 0.55,
                turn: float = 1.5) -> np.ndarray:
    """
    Weave through the scene's cones and back, (N, 2) [m]; a figure of eight where there are none.

    :param clearance: [m] between the path and the middle of a cone.
    :param turn: [m] beyond the first and last cone to turn round in.
    """
    start = np.array(scene.vehicle.xyz[:2])
    heading = math.radians(scene.vehicle.yaw)
    forward = np.array([math.cos(heading), math.sin(heading)])
    cones = slalom_cones(scene)
    if len(cones) < 2:
        t = np.linspace(0, 2 * math.pi, 16, endpoint=False)
        left = np.array([-forward[1], forward[0]])
        return closed_path(start + 3.0 * np.sin(t)[:, None] * forward
                           + 1.5 * np.sin(2 * t)[:, None] * left)
    first, last = cones[0], cones[-1]
    along = (last - first) / np.linalg.norm(last - first)
    across = np.array([-along[1], along[0]])
    sides = np.where(np.arange(len(cones)) % 2, -1.0, 1.0)[:, None]
    out = cones + sides * clearance * across
    back = (cones - sides * clearance * across)[::-1]
    # Round the far end on the side where the last gate was left, the same at the near end.
    side_far, side_near = sides[-1, 0], sides[0, 0]
    far = [last + turn * along + side * clearance * across * 1.2
           for side in (side_far, -side_far)]
    tip = last + (turn + clearance) * along
    near = [first - turn * along + side * clearance * across * 1.2
            for side in (-side_near, side_near)]
    base = first - (turn + clearance) * along
    return closed_path(np.array([*out, far[0], tip, far[1], *back, near[0], base, near[1]]),
                       start=start)


def slalom_cones(scene: SceneConfig) -> np.ndarray:
    """Positions (C, 2) [m] of the cones named slalom, else of all, nearest to the start first."""
    named = [c.xy for c in scene.cones if c.name.startswith('slalom')]
    cones = np.array(named or [c.xy for c in scene.cones], float).reshape(-1, 2)
    return cones[np.argsort(np.linalg.norm(cones - scene.vehicle.xyz[:2], axis=1))]


def closed_path(points: np.ndarray, *, start: np.ndarray | None = None) -> np.ndarray:
    """Smooth closed curve (N, 2) through waypoints (M, 2), beginning nearest to ``start``."""
    loop = np.concatenate([points, points[:1]])
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(loop, axis=0), axis=1))])
    spline = CubicSpline(length, loop, bc_type='periodic')
    fine = spline(np.linspace(0, length[-1], 200 * len(points)))
    travelled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(fine, axis=0), axis=1))])
    even = np.arange(0, travelled[-1], SPACING)
    path = np.stack([np.interp(even, travelled, fine[:, i]) for i in (0, 1)], -1)
    if start is not None:
        path = np.roll(path, -int(np.linalg.norm(path - start, axis=1).argmin()), axis=0)
    return path


def _speeds(path: np.ndarray, driver: Driver) -> np.ndarray:
    """Speed [m/s] at every point: slower in bends, braking before them."""
    before, after = np.roll(path, 3, 0), np.roll(path, -3, 0)
    tangent = np.unwrap(np.arctan2(*(np.roll(path, -1, 0) - path).T[::-1]))
    turning = np.abs(np.roll(tangent, -3) - np.roll(tangent, 3))
    turning = np.minimum(turning, 2 * math.pi - turning % (2 * math.pi))
    curvature = turning / np.maximum(np.linalg.norm(after - path, axis=1)
                                     + np.linalg.norm(path - before, axis=1), 1e-6)
    speeds = np.minimum(driver.speed, np.sqrt(driver.lateral_acceleration
                                              / np.maximum(curvature, 1e-3)))
    for _ in range(2):     # twice round: the path is closed
        for i in range(len(path) - 1, -1, -1):
            allowed = math.sqrt(speeds[(i + 1) % len(path)] ** 2 + 2 * 1.0 * SPACING)
            speeds[i] = min(speeds[i], allowed)
    return speeds
