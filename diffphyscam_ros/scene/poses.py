"""Poses in numpy, as PyBullet and scene files give them."""

from collections.abc import Iterable

import numpy as np
import torch

from diffphyscam_ros.geometry import quaternion_from_rotation


def rotation_rpy(rpy_degrees: Iterable[float]) -> np.ndarray:
    """Rotation matrix of roll, pitch, yaw [deg] about the fixed x, y, z axes (URDF)."""
    (cr, sr), (cp, sp), (cy, sy) = ((np.cos(a), np.sin(a)) for a in np.radians(rpy_degrees))
    return np.array([[cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
                     [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
                     [-sp, cp * sr, cp * cr]])


def quaternion(rotation: np.ndarray) -> tuple[float, ...]:
    """Quaternion (x, y, z, w) of a rotation matrix (3, 3)."""
    return tuple(quaternion_from_rotation(torch.from_numpy(np.array(rotation, float))).tolist())


def matrix(position, quaternion) -> np.ndarray:
    """(4, 4) float64 from a position and a unit quaternion."""
    return matrices(np.array([position]), np.array([quaternion]))[0]


def matrices(positions: np.ndarray, quaternions: np.ndarray) -> np.ndarray:
    """(N, 4, 4) float64 from (N, 3) and unit (N, 4)."""
    x, y, z, w = quaternions.T
    T = np.zeros((len(positions), 4, 4))
    T[:, 0, 0], T[:, 1, 1] = 1 - 2 * (y * y + z * z), 1 - 2 * (x * x + z * z)
    T[:, 2, 2] = 1 - 2 * (x * x + y * y)
    T[:, 0, 1], T[:, 1, 0] = 2 * (x * y - z * w), 2 * (x * y + z * w)
    T[:, 0, 2], T[:, 2, 0] = 2 * (x * z + y * w), 2 * (x * z - y * w)
    T[:, 1, 2], T[:, 2, 1] = 2 * (y * z - x * w), 2 * (y * z + x * w)
    T[:, :3, 3], T[:, 3, 3] = positions, 1
    return T
