"""Adjoints of the lookup: gradients of the gain, of the rendering and of the places."""

import numba
import numpy as np

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics.cubic_lanes import cubic_slopes
from diffphyscam_ros.optics.resample_kernels import (
    aim_inside,
    bilinear,
    SHARPNESS,
    slopes_kernel,
    taps,
)

_A, _ONE, _HALF = np.float32(SHARPNESS), np.float32(1), np.float32(0.5)


@kernel
def backward_gain(out, grad, gain, of_gain, scaled):
    """
    Gradient of the gain (H, W), summed over frames and colours, and of what it multiplied.

    Where the gain is 0 so is its gradient: nothing is known of what it hid.
    """
    batch, height, width, channels = out.shape
    for v in numba.prange(height):
        for u in range(width):
            total = np.float32(0)
            for n in range(batch):
                for c in range(channels):
                    total += grad[n, v, u, c] * out[n, v, u, c]
                    scaled[n, v, u, c] = grad[n, v, u, c] * gain[v, u]
            of_gain[v, u] = total / gain[v, u] if gain[v, u] > 0 else np.float32(0)


@kernel
def backward_source(source, position, grad, bands, grad_source):
    """Add the gradient to the source; bands of one call never meet in a row of it."""
    batch, h, w, channels = source.shape
    for band in numba.prange(bands.shape[0]):
        wx, wy = np.empty(4, np.float32), np.empty(4, np.float32)
        for v in range(bands[band, 0], bands[band, 1]):
            for u in range(position.shape[1]):
                px, py = position[v, u, 0], position[v, u, 1]
                column, wx[0], wx[1], wx[2], wx[3], _, _, _, _ = taps(px, w)
                row, wy[0], wy[1], wy[2], wy[3], _, _, _, _ = taps(py, h)
                soft_column, tx = bilinear(px, w)
                soft_row, ty = bilinear(py, h)
                for n in range(batch):
                    for c in range(channels):
                        g = grad[n, v, u, c]
                        if g == 0:
                            continue
                        sharp = np.float32(0)
                        for j in range(4):
                            for i in range(4):
                                sharp += wy[j] * wx[i] * source[n, row + j, column + i, c]
                        a1 = source[n, soft_row, soft_column, c]
                        a2 = source[n, soft_row, soft_column + 1, c]
                        b1 = source[n, soft_row + 1, soft_column, c]
                        b2 = source[n, soft_row + 1, soft_column + 1, c]
                        top, bottom = a1 + tx * (a2 - a1), b1 + tx * (b2 - b1)
                        if sharp < _HALF * (top + ty * (bottom - top)):
                            g *= _HALF
                            right, under = g * tx, g * (_ONE - ty)
                            grad_source[n, soft_row, soft_column, c] += under * (_ONE - tx)
                            grad_source[n, soft_row, soft_column + 1, c] += under * tx
                            grad_source[n, soft_row + 1, soft_column, c] += (g - right) * ty
                            grad_source[n, soft_row + 1, soft_column + 1, c] += right * ty
                        else:
                            for j in range(4):
                                for i in range(4):
                                    grad_source[n, row + j, column + i, c] += g * wy[j] * wx[i]


@inline
def slopes_anywhere(source, shape, position, grad, v, grad_position):
    """Row ``v`` of the gradient of the positions, at the border or of other than three colours."""
    batch, h, w, channels = shape
    down, one = np.uint64(w * channels), np.uint64(channels)
    for u in range(position.shape[1]):
        px, py = position[v, u, 0], position[v, u, 1]
        column, x0, x1, x2, x3, dx0, dx1, dx2, dx3 = taps(px, w)
        row, y0, y1, y2, y3, dy0, dy1, dy2, dy3 = taps(py, h)
        soft_column, tx = bilinear(px, w)
        soft_row, ty = bilinear(py, h)
        total_x = total_y = np.float32(0)
        for n in range(batch):
            for c in range(channels):
                g = grad[n, v, u * channels + c]
                a = np.uint64(((n * h + row) * w + column) * channels + c)
                sharp = slope_x = slope_y = np.float32(0)
                for weight, slope in zip((y0, y1, y2, y3), (dy0, dy1, dy2, dy3)):  # noqa: B905
                    s0, s1, s2, s3 = (source[a], source[a + one], source[a + one + one],
                                      source[a + one + one + one])
                    along = x0 * s0 + x1 * s1 + x2 * s2 + x3 * s3
                    sharp += weight * along
                    slope_x += weight * (dx0 * s0 + dx1 * s1 + dx2 * s2 + dx3 * s3)
                    slope_y += slope * along
                    a += down
                a = np.uint64(((n * h + soft_row) * w + soft_column) * channels + c)
                a1, a2 = source[a], source[a + one]
                b1, b2 = source[a + down], source[a + down + one]
                top, bottom = a1 + tx * (a2 - a1), b1 + tx * (b2 - b1)
                if sharp < _HALF * (top + ty * (bottom - top)):
                    slope_x = _HALF * ((_ONE - ty) * (a2 - a1) + ty * (b2 - b1))
                    slope_y = _HALF * (bottom - top)
                total_x += g * slope_x
                total_y += g * slope_y
        grad_position[v, u, 0] = total_x
        grad_position[v, u, 1] = total_y


@kernel
def backward_position(source, shape, position, grad, grad_position):
    """Write the gradient of the positions, summed over frames and channels."""
    batch, h, w, channels = shape
    width = position.shape[1]
    for v in numba.prange(position.shape[0]):
        inside = channels == 3
        for u in range(width):
            px, py = position[v, u, 0], position[v, u, 1]
            # a row further inside than the taps: one number beyond the last is read
            inside &= (px >= 1) & (px < w - 2) & (py >= 1) & (py < h - 3)
        if not inside:
            slopes_anywhere(source, shape, position, grad, v, grad_position)
            continue
        weight, line = np.empty((18, width), np.float32), np.zeros(3 * width + 1, np.float32)
        shares, target = weight.reshape(-1), grad_position[v].reshape(-1)
        sharp_at, soft_at = np.empty(width, np.int32), np.empty(width, np.int32)
        nearest = np.empty(width, np.int32)
        aim_inside(position[v], np.int32(w), np.int32(channels), weight, sharp_at, soft_at,
                   nearest)
        for u in range(width):
            d0, d1, d2, d3 = slopes_kernel(weight[8, u], _A, _ONE)
            weight[10, u], weight[11, u], weight[12, u], weight[13, u] = d0, d1, d2, d3
            d0, d1, d2, d3 = slopes_kernel(weight[9, u], _A, _ONE)
            weight[14, u], weight[15, u], weight[16, u], weight[17, u] = d0, d1, d2, d3
        target[:] = 0
        for n in range(batch):
            start = n * h * w * channels
            line[:3 * width] = grad[n, v]
            for u in range(width):
                cubic_slopes(source, start + sharp_at[u], start + soft_at[u], 3 * w, shares, u,
                             width, line, 3 * u, target, 2 * u)
