"""
Where the rays of a camera meet the board: a plane needs no rasteriser.

Exact, and differentiable in pose and lens.
"""

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import shape
from diffphyscam_ros.geometry import exp_so3


def intersect(rays: Tensor, pose: Tensor, bent: np.ndarray = shape.FLAT,
              extent: tuple[float, float] = (1.0, 1.0), flex: Tensor | None = None
              ) -> tuple[Tensor, Tensor, Tensor]:
    """
    Where rays meet the board: x, y on the board [m] and depth along the optical axis [m].

    :param rays: (H, W, 2) normalised image coordinates (X/Z, Y/Z) without distortion.
    :param pose: (6,) rotation vector and translation: T_camera_board; differentiable.
    :param bent: coefficients of the board's shape; x, y are then those of the ideal print.
    :param extent: [m] of the board between its outermost corners.
    :param flex: coefficients of ``shape.FLEX`` in which this frame differs; differentiable.
    """
    R = exp_so3(pose[:3]).to(rays.dtype)
    t = pose[3:].to(rays.dtype)
    x, y = rays.unbind(-1)
    slope = R[0, 2] * x + R[1, 2] * y + R[2, 2]
    slope = torch.where(slope.abs() < 1e-9, torch.full_like(slope, 1e-9), slope)
    depth = (R[:, 2] @ t) / slope
    across = R[0, 0] * x + R[1, 0] * y + R[2, 0]
    down = R[0, 1] * x + R[1, 1] * y + R[2, 1]
    X, Y = across * depth - R[:, 0] @ t, down * depth - R[:, 1] @ t
    if bent.any():   # one step along the ray to the bent surface, then back to the ideal print
        bends = torch.from_numpy(bent[2:]).to(rays)
        if flex is not None:
            count = len(shape.FLEX)
            bends = torch.cat([bends[:count] + flex.to(rays), bends[count:]])
        x, y = (2 * X / extent[0] - 1).clamp(-1.5, 1.5), (2 * Y / extent[1] - 1).clamp(-1.5, 1.5)
        height = shape.height(x, y, bends) / slope
        X, Y, depth = X + height * across, Y + height * down, depth + height
        dx, dy = shape.print_offset(2 * X / extent[0] - 1, 2 * Y / extent[1] - 1, bent)
        X, Y = X - dx, Y - dy
    return X, Y, depth
