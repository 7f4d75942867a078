"""
R and P of camera_info: as a calibration gave them, or worked out for a stereo pair.

R turns the optical frame into the frame of the rectified image, P projects from there, with
-fx B in the right camera of a pair whose optical centres are B [m] apart (sensor_msgs/CameraInfo).
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import CameraInfo
from diffphyscam_ros.errors import InputError

#: The calibration tool rounds to five digits; the rows of such an R are unit to some 1e-5.
_ROTATION_ERROR = 1e-3
#: cos 45 degrees. Beyond it a rectified image would show hardly anything of the camera's own.
_FARTHEST = 0.7
#: What poses of a moving vehicle leave of an exact 0 or 1 is some 1e-16.
_DECIMALS = 12


@dataclass(frozen=True)
class Rectification:
    """R and P of a calibration, and the camera that they were measured with."""

    r: tuple[float, ...]
    """(9,) row by row."""
    p: tuple[float, ...]
    """(12,) row by row."""
    calibrated: CameraInfo
    """What the camera says of itself with the K and D of the same calibration."""

    @staticmethod
    def of(info: object, calibrated: CameraInfo) -> 'Rectification':
        """
        Take R and P of a CameraInfo (message, file or our own); raises InputError.

        :param calibrated: of the camera that has the K and D of ``info`` by now.
        """
        r, p = (tuple(float(v) for v in values) for values in (info.r, info.p))
        _check(np.reshape(r, (3, 3)), np.reshape(p, (3, 4)))
        return Rectification(r, p, calibrated)

    @property
    def turns(self) -> bool:
        """Whether it says more than the R = I and P = [K 0] of a camera that stands alone."""
        return (self.r, self.p) != (self.calibrated.r, self.calibrated.p)


def stereo_infos(left: CameraInfo, right: CameraInfo, T_left_right: Tensor
                 ) -> tuple[CameraInfo, CameraInfo]:
    """
    CameraInfo of both cameras of a pair, whose rectified rows then show the same points.

    Both rectify to the left camera's K, x along the baseline, z as near as can be to the mean of
    both optical axes, so that depth is fx B / disparity. (Fusiello, Trucco and Verri, A compact
    algorithm for rectification of stereo pairs, 2000, which has the left axis for the mean.)

    :param T_left_right: (4, 4) right optical frame to left optical frame.
    """
    T = T_left_right.double()
    baseline, right_axis = T[:3, 3], T[:3, 2]
    x = torch.nn.functional.normalize(baseline, dim=0)
    middle = right_axis + torch.tensor([0.0, 0.0, 1.0], dtype=T.dtype)
    y = torch.nn.functional.normalize(torch.linalg.cross(middle, x), dim=0)
    turn = torch.stack([x, y, torch.linalg.cross(x, y)])       # left optical to rectified
    turns = turn, turn @ T[:3, :3]
    if min(t.diagonal().min().item() for t in turns) < _FARTHEST:
        raise InputError(
            'the cameras of a stereo pair must look the same way, the right one beside the left; '
            f'here it sits ({", ".join(f"{v:.4f}" for v in baseline.tolist())}) m right of, below '
            f'and before it and looks along ({", ".join(f"{v:.3f}" for v in right_axis.tolist())}'
            ') in its frame. Correct the mounts in the scene file.')
    p = np.array(left.p)
    p[3] = round(-p[0] * baseline.norm().item(), _DECIMALS)
    rows = [tuple((t.round(decimals=_DECIMALS) + 0.0).flatten().tolist()) for t in turns]
    return (replace(left, r=rows[0]),
            replace(right, r=rows[1], p=tuple(p.tolist())))


def _check(R: np.ndarray, P: np.ndarray) -> None:
    """Raise InputError unless R is a rotation and P the projection of a rectified camera."""
    off = np.abs(R @ R.T - np.eye(3)).max() if np.isfinite(R).all() else np.inf
    if not off <= _ROTATION_ERROR or np.linalg.det(R) < 0:
        raise InputError(f'R is not a rotation (R times its transpose is off by {off:.2g}); '
                         'pass the identity where nothing was rectified.')
    if not np.isfinite(P).all() or P[0, 0] <= 0 or P[1, 1] <= 0:
        raise InputError(f'P has the focal lengths {P[0, 0]:g} and {P[1, 1]:g} px; pass the '
                         'projection of the rectified image, [K 0] where nothing was rectified.')
    if P[0, 1] or P[1, 0] or tuple(P[2]) != (0, 0, 1, 0):
        raise InputError('P has a skew or does not end with the row 0 0 1 0; pass fx 0 cx fx*Tx, '
                         '0 fy cy fy*Ty, 0 0 1 0.')
