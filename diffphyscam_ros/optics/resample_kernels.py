"""
Kernels of the lookup: 4-tap cubic weights and their derivatives, and the forward pass.

Taps that would look outside look at the border. Constants come in float32: with a literal, numba
would compute in float64.
"""

import math

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics.cubic_lanes import cubic_three

#: Keys' a.
SHARPNESS = -0.75


def weights(t, a, one):
    """
    Weights of the four taps around fraction ``t`` in [0, 1); they sum to one.

    The constants a = SHARPNESS and 1 come in the caller's precision: numba would compute in
    float64 with literals.
    """
    s, t2 = one - t, t * t
    s2, b, c = s * s, a + one + one, a + one + one + one
    return a * t * s2, one + t2 * (b * t - c), one + s2 * (b * s - c), a * s * t2


def weight_slopes(t, a, one):
    """Derivatives of :func:`weights` by t."""
    s, b, c = one - t, a + one + one, a + one + one + one
    b, c = b + b + b, c + c
    return a * s * (s - t - t), t * (b * t - c), -s * (b * s - c), a * t * (s + s - t)


weights_kernel = inline(weights)
slopes_kernel = inline(weight_slopes)


_A, _ONE, _HALF = np.float32(SHARPNESS), np.float32(1), np.float32(0.5)


@inline
def fold(first, w0, w1, w2, w3):
    """Weights at the 4 taps from max(first, 0) on: what looks outside looks at the border."""
    while first < 0:
        first, w0, w1, w2, w3 = first + 1, w0 + w1, w2, w3, np.float32(0)
    return w0, w1, w2, w3


@inline
def taps(place, length):
    """First of 4 taps inside [0, length), their weights and the derivatives of those."""
    low = int(math.floor(place))
    t = place - np.float32(low)
    w0, w1, w2, w3 = weights_kernel(t, _A, _ONE)
    d0, d1, d2, d3 = slopes_kernel(t, _A, _ONE)
    first = low - 1
    if first < 0:
        w0, w1, w2, w3 = fold(first, w0, w1, w2, w3)
        d0, d1, d2, d3 = fold(first, d0, d1, d2, d3)
        first = 0
    elif first > length - 4:
        w3, w2, w1, w0 = fold(length - 4 - first, w3, w2, w1, w0)
        d3, d2, d1, d0 = fold(length - 4 - first, d3, d2, d1, d0)
        first = length - 4
    return first, w0, w1, w2, w3, d0, d1, d2, d3


@inline
def bilinear(place, length):
    """First tap of 2 and the weight of the second."""
    place = min(max(place, np.float32(0)), np.float32(length - 1))
    first = min(int(place), length - 2)
    return first, place - np.float32(first)


@inline
def resample_row(source, start, down, channels, sharp_at, soft_at, weight, gain, out):
    """One row: out (W * channels,); offsets are unsigned, so numba need not check their sign."""
    one, two, three = np.uint64(channels), np.uint64(2 * channels), np.uint64(3 * channels)
    for u in range(sharp_at.size):
        x0, x1, x2, x3 = weight[0, u], weight[1, u], weight[2, u], weight[3, u]
        y0, y1, y2, y3 = weight[4, u], weight[5, u], weight[6, u], weight[7, u]
        tx, ty, scale = weight[8, u], weight[9, u], gain[u]
        for c in range(channels):
            a = np.uint64(start + sharp_at[u] + c)
            sharp = y0 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                          + x3 * source[a + three])
            a += down
            sharp += y1 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a += down
            sharp += y2 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a += down
            sharp += y3 * (x0 * source[a] + x1 * source[a + one] + x2 * source[a + two]
                           + x3 * source[a + three])
            a = np.uint64(start + soft_at[u] + c)
            top = source[a] + tx * (source[a + one] - source[a])
            a += down
            bottom = source[a] + tx * (source[a + one] - source[a])
            out[u * channels + c] = scale * max(sharp, _HALF * (top + ty * (bottom - top)))


@inline
def aim_inside(position, w, channels, weight, sharp_at, soft_at, nearest):
    """Taps of a row that looks nowhere near a border: no branch, so it runs many at a time."""
    for u in range(sharp_at.size):
        px, py = position[u, 0], position[u, 1]
        column, row = np.int32(px), np.int32(py)
        tx, ty = px - np.float32(column), py - np.float32(row)
        x0, x1, x2, x3 = weights_kernel(tx, _A, _ONE)
        y0, y1, y2, y3 = weights_kernel(ty, _A, _ONE)
        weight[0, u], weight[1, u], weight[2, u], weight[3, u] = x0, x1, x2, x3
        weight[4, u], weight[5, u], weight[6, u], weight[7, u] = y0, y1, y2, y3
        weight[8, u], weight[9, u] = tx, ty
        at = row * w + column
        soft_at[u] = at * channels
        sharp_at[u] = (at - w - np.int32(1)) * channels
        nearest[u] = at + np.int32(ty >= _HALF) * w + np.int32(tx >= _HALF)


@inline
def aim_anywhere(position, h, w, channels, weight, sharp_at, soft_at, nearest):
    """Taps of a row: what would look outside looks at the border."""
    for u in range(sharp_at.size):
        px, py = position[u, 0], position[u, 1]
        column, x0, x1, x2, x3, _, _, _, _ = taps(px, w)
        row, y0, y1, y2, y3, _, _, _, _ = taps(py, h)
        sharp_at[u] = (row * w + column) * channels
        row, ty = bilinear(py, h)
        column, tx = bilinear(px, w)
        weight[0, u], weight[1, u], weight[2, u], weight[3, u] = x0, x1, x2, x3
        weight[4, u], weight[5, u], weight[6, u], weight[7, u] = y0, y1, y2, y3
        weight[8, u], weight[9, u] = tx, ty
        soft_at[u] = (row * w + column) * channels
        nearest[u] = (row + (ty >= _HALF)) * w + column + (tx >= _HALF)


@kernel
def look_up(source, shape, depths, position, gain, out, out_depth):
    """Radiance times gain, and nearest depth, of every pixel of every frame."""
    batch, h, w, channels = shape
    width = position.shape[1]
    down = np.uint64(w * channels)
    for v in numba.prange(position.shape[0]):
        weight, line = np.empty((10, width), np.float32), np.empty(3 * width + 1, np.float32)
        shares = weight.reshape(-1)
        sharp_at, soft_at = np.empty(width, np.int32), np.empty(width, np.int32)
        nearest = np.empty(width, np.int32)
        inside = True
        for u in range(width):
            px, py = position[v, u, 0], position[v, u, 1]
            inside &= (px >= 1) & (px < w - 2) & (py >= 1) & (py < h - 2)
        if inside:
            aim_inside(position[v], np.int32(w), np.int32(channels), weight, sharp_at, soft_at,
                       nearest)
        else:
            aim_anywhere(position[v], h, w, channels, weight, sharp_at, soft_at, nearest)
        for n in range(batch):
            start = n * h * w * channels
            if channels == 3 and start + sharp_at.max() + 3 * (w + 4) * 3 < source.size:
                for u in range(width):
                    cubic_three(source, start + sharp_at[u], start + soft_at[u], 3 * w, shares, u,
                                width, gain[v, u], line, 3 * u)
                out[n, v] = line[:3 * width]
            else:
                resample_row(source, start, down, channels, sharp_at, soft_at, weight, gain[v],
                             out[n, v])
            if depths.size:
                for u in range(width):
                    out_depth[n, v, u] = depths[np.uint64(n * h * w + nearest[u])]
