"""
Mip-maps: every level is the box-filtered half of the one before.

Sizes are max(n // 2, 1). For even sizes the filter is the mean of 2 x 2 texels, exactly
nvdiffrast's; an odd size n = 2 m + 1 (which nvdiffrast refuses) takes the mean over each target
texel's area, three taps of (m - i, m, i + 1) / n, so that every level keeps the texture's mean.
Levels after the base lie one after the other in a flat buffer.
"""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.render.cpu.bands import ROW_BANDS


def mip_sizes(height, width, limit=None):
    """Sizes (L + 1, 2) of the base and its levels down to 1x1, or to level ``limit``."""
    sizes = [(height, width)]
    while sizes[-1] != (1, 1) and (limit is None or len(sizes) <= limit):
        sizes.append((max(sizes[-1][0] // 2, 1), max(sizes[-1][1] // 2, 1)))
    return np.array(sizes, np.int64)


@inline
def _tap(i, k, n):
    """Weight of source texel 2 i + k (k = 0, 1, 2) in target texel i, source size n."""
    if n == 1:
        return np.float64(1) if k == 0 else np.float64(0)
    if n % 2 == 0:
        return np.float64(0.5) if k < 2 else np.float64(0)
    half = n // 2
    if k == 0:
        return np.float64(half - i) / n
    return np.float64(half) / n if k == 1 else np.float64(i + 1) / n


@kernel
def halve(source, target):
    """Box-filter ``source`` (N, h, w, C) into ``target`` (N, max(h//2, 1), max(w//2, 1), C)."""
    count, rows, columns, channels = target.shape
    height, width = source.shape[1], source.shape[2]
    for item in numba.prange(count * rows):
        n, y = item // rows, item % rows
        for x in range(columns):
            for c in range(channels):
                total = np.float64(0)
                for ky in range(3):
                    wy = _tap(y, ky, height)
                    if wy == 0:
                        continue
                    for kx in range(3):
                        wx = _tap(x, kx, width)
                        if wx != 0:
                            total += wy * wx * source[n, 2 * y + ky, 2 * x + kx, c]
                target[n, y, x, c] = total


@kernel
def halve_adjoint(grad_target, grad_source):
    """Add the adjoint of halve to ``grad_source``; a band owns whole source rows."""
    count, height, width, channels = grad_source.shape
    rows, columns = grad_target.shape[1], grad_target.shape[2]
    for band in numba.prange(ROW_BANDS):
        for item in range(band, count * height, ROW_BANDS):
            n, y = item // height, item % height
            for ky in range(3):
                if (y - ky) % 2 == 1 or y < ky or (y - ky) // 2 >= rows:
                    continue
                ty = (y - ky) // 2
                wy = _tap(ty, ky, height)
                if wy == 0:
                    continue
                for x in range(width):
                    for kx in range(3):
                        if (x - kx) % 2 == 1 or x < kx or (x - kx) // 2 >= columns:
                            continue
                        tx = (x - kx) // 2
                        weight = wy * _tap(tx, kx, width)
                        if weight != 0:
                            for c in range(channels):
                                grad_source[n, y, x, c] += weight * grad_target[n, ty, tx, c]
