"""Point clouds from depth images."""

from functools import lru_cache
import math

import numpy as np


def points_from_depth(depth: np.ndarray, camera_matrix: np.ndarray, *, stride: int = 1,
                      range_min: float = 0.0, range_max: float = math.inf) -> np.ndarray:
    """
    Points (ceil(H / stride), ceil(W / stride), 3) float32 [m] in the optical frame.

    NaN where nothing is measured: beyond the range or at infinity, as costmaps expect.

    :param depth: (H, W) [m] along the optical axis, without distortion.
    :param camera_matrix: (3, 3) K [px].
    :param stride: take every n-th pixel of every n-th row.
    """
    depth = np.asarray(depth, np.float32)[::stride, ::stride]
    matrix = tuple(np.asarray(camera_matrix, np.float64).ravel().tolist())
    x, y = _rays(matrix, depth.shape, stride)
    valid = (depth >= range_min) & (depth <= range_max) & np.isfinite(depth)
    depth = np.where(valid, depth, np.float32(np.nan))
    return np.stack([depth * x, depth * y, depth], -1)


@lru_cache(maxsize=8)
def _rays(matrix: tuple[float, ...], size: tuple[int, int],
          stride: int) -> tuple[np.ndarray, np.ndarray]:
    fx, skew, cx, _, fy, cy = matrix[:6]
    v, u = (stride * np.mgrid[:size[0], :size[1]]).astype(np.float64)
    y = (v - cy) / fy
    return ((u - cx - skew * y) / fx).astype(np.float32), y.astype(np.float32)
