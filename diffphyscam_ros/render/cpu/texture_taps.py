"""
Where a texture look-up reads: four texels with weights, and the mip level of a footprint.

Nvdiffrast's conventions: (0, 0) is the corner of the first texel; the level is log2 of the major
axis of the pixel's footprint (the ellipse that the uv derivatives span, in texels of the base).
"""

import math

import numpy as np

from diffphyscam_ros.kernels import inline
from diffphyscam_ros.render.cpu.cubemap import cube_texel

WRAP, CLAMP, ZERO, CUBE = 0, 1, 2, 3
NEAREST, LINEAR, LINEAR_MIPMAP_NEAREST, LINEAR_MIPMAP_LINEAR = 0, 1, 2, 3


@inline
def nearest_texel(boundary, face, u, v, height, width):
    """Index of the texel that contains (u, v), -1 outside in ZERO mode."""
    if boundary == WRAP:
        u, v = u - math.floor(u), v - math.floor(v)
    column = np.int64(math.floor(min(max(u * width, np.float64(-1)), np.float64(width))))
    row = np.int64(math.floor(min(max(v * height, np.float64(-1)), np.float64(height))))
    if boundary == ZERO and (column < 0 or column >= width or row < 0 or row >= height):
        return np.int64(-1)
    column, row = min(max(column, 0), width - 1), min(max(row, 0), height - 1)
    return np.int64((face * height + row) * width + column)


@inline
def linear_taps(boundary, face, u, v, height, width, index, weight, weight_u, weight_v):
    """
    Bilinear look-up: texel indices (-1 reads zero), weights, and the weights' derivatives.

    :param u: coordinates in [0, 1] across the texture (or cube face ``face``); derivatives are
        with respect to them. Results go to arrays of 4.
    """
    if boundary == WRAP:
        u, v = u - math.floor(u), v - math.floor(v)
    s, t = u * width - np.float64(0.5), v * height - np.float64(0.5)
    slope_u, slope_v = np.float64(width), np.float64(height)
    if boundary == CLAMP:
        if not (s > 0 and s < width - 1):
            slope_u = np.float64(0)
        if not (t > 0 and t < height - 1):
            slope_v = np.float64(0)
        s = min(max(s, np.float64(0)), np.float64(width - 1))
        t = min(max(t, np.float64(0)), np.float64(height - 1))
    elif boundary == ZERO:
        s = min(max(s, np.float64(-2)), np.float64(width + 1))
        t = min(max(t, np.float64(-2)), np.float64(height + 1))
    column, row = np.int64(math.floor(s)), np.int64(math.floor(t))
    s, t = s - column, t - row
    for k in range(4):
        dx, dy = k & 1, k >> 1
        x, y = column + dx, row + dy
        wx, wy = (s if dx == 1 else 1 - s), (t if dy == 1 else 1 - t)
        weight[k] = wx * wy
        weight_u[k] = (slope_u if dx == 1 else -slope_u) * wy
        weight_v[k] = (slope_v if dy == 1 else -slope_v) * wx
        if boundary == CUBE:
            index[k] = cube_texel(face, x, y, width)
            continue
        if boundary == WRAP:
            if x < 0:
                x += width
            if y < 0:
                y += height
            if x >= width:
                x -= width
            if y >= height:
                y -= height
        elif boundary == CLAMP:
            x, y = min(x, width - 1), min(y, height - 1)
        if x < 0 or y < 0 or x >= width or y >= height:
            index[k] = -1
        else:
            index[k] = y * width + x
    if boundary == CUBE:
        # Three faces meet in a corner; the missing fourth texel is the mean of the three.
        for k in range(4):
            if index[k] < 0:
                for other in range(4):
                    if other != k:
                        weight[other] += weight[k] / 3
                        weight_u[other] += weight_u[k] / 3
                        weight_v[other] += weight_v[k] / 3


@inline
def footprint_level(sx, sy, tx, ty, slopes):
    """
    Mip level of a footprint with derivatives (ds/dX, ds/dY, dt/dX, dt/dY) in texels.

    ``slopes`` (4,) receives the level's derivatives, 0 for an empty footprint (finest level) and
    for one that is not finite.
    """
    a, b, c = sx * sx + tx * tx, sy * sy + ty * ty, sx * sy + tx * ty
    mean, half = (a + b) / 2, (a - b) / 2
    root = math.sqrt(half * half + c * c)
    major = mean + root
    if not (major > np.float64(1e-36) and major < np.float64(1e36)):
        slopes[:] = 0
        return np.float64(1e30) if major >= np.float64(1e36) else np.float64(-1e30)
    # d major = da (1/2 + half / (2 root)) + db (1/2 - half / (2 root)) + dc (c / root).
    share = half / root if root > 0 else np.float64(0)
    skew = c / root if root > 0 else np.float64(0)
    scale = 1 / (2 * math.log(2.0) * major)
    slopes[0] = scale * (sx * (1 + share) + sy * skew)
    slopes[1] = scale * (sy * (1 - share) + sx * skew)
    slopes[2] = scale * (tx * (1 + share) + ty * skew)
    slopes[3] = scale * (ty * (1 - share) + tx * skew)
    return np.float64(0.5) * math.log2(major)
