"""
The board as the camera sees it before any optics: radiance and depth at every pixel.

A plane needs no rasteriser: each pixel's ray meets it at one point, and the printed pattern,
averaged over the pixel's footprint there, has a closed form. That is exact, antialiased and
differentiable in pose and lens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import shape
from diffphyscam_ros.calibrate.target import Pattern
from diffphyscam_ros.geometry import exp_so3
from diffphyscam_ros.kernels import kernel, numba


@dataclass(frozen=True)
class Print:
    """A pattern prepared for area-filtered look-up."""

    x_lines: np.ndarray
    y_lines: np.ndarray
    integral: np.ndarray
    """(m + 1, n + 1) integral of the white cells from the first corner to each node [m^2]."""
    area: tuple[float, float, float, float]


def prepare(pattern: Pattern) -> Print:
    """Sum up the pattern once; its mean over any rectangle is then four look-ups."""
    area = (np.diff(pattern.y_lines)[:, None] * np.diff(pattern.x_lines)) * pattern.white
    integral = np.zeros((len(pattern.y_lines), len(pattern.x_lines)))
    integral[1:, 1:] = area.cumsum(0).cumsum(1)
    return Print(np.ascontiguousarray(pattern.x_lines, np.float64),
                 np.ascontiguousarray(pattern.y_lines, np.float64), integral, pattern.area)


def intersect(rays: Tensor, pose: Tensor, bent: np.ndarray = shape.FLAT,
              extent: tuple[float, float] = (1.0, 1.0)) -> tuple[Tensor, Tensor, Tensor]:
    """
    Where rays meet the board: x, y on the board [m] and depth along the optical axis [m].

    :param rays: (H, W, 2) normalised image coordinates (X/Z, Y/Z) without distortion.
    :param pose: (6,) rotation vector and translation: T_camera_board; differentiable.
    :param bent: coefficients of the board's shape; x, y are then those of the ideal print.
    :param extent: [m] of the board between its outermost corners.
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
        height = shape.height(2 * X / extent[0] - 1, 2 * Y / extent[1] - 1, bent) / slope
        X, Y, depth = X + height * across, Y + height * down, depth + height
        dx, dy = shape.print_offset(2 * X / extent[0] - 1, 2 * Y / extent[1] - 1, bent)
        X, Y = X - dx, Y - dy
    return X, Y, depth


def whiteness(X: Tensor, Y: Tensor, pattern: Print) -> Tensor:
    """
    Share of white in the footprint of each pixel (H, W) at board points X, Y (H, W) [m].

    The footprint is an upright rectangle with the same second moments as the pixel's
    parallelogram: exact for straight edges up to the shape of their half-pixel ramp. Gradients
    reach X and Y; that of the footprint's size is left out, it is third order.
    """
    return _Whiteness.apply(X, Y, pattern)


class _Whiteness(torch.autograd.Function):

    @staticmethod
    def forward(ctx, X, Y, pattern):
        x, y = X.detach().double().contiguous().numpy(), Y.detach().double().contiguous().numpy()
        out = np.empty((3, *x.shape), np.float32)
        _whiteness(x, y, pattern.x_lines, pattern.y_lines, pattern.integral, out)
        value, ctx.dx, ctx.dy = torch.from_numpy(out)
        return value.to(X.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.dx.to(grad), grad * ctx.dy.to(grad), None


@numba.njit(nogil=True, cache=True, error_model='numpy')
def _locate(lines, value):
    """Cell of ``value`` and its place in it, clamped to the pattern."""
    low, high = 0, lines.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if lines[middle] <= value:
            low = middle
        else:
            high = middle
    width = lines[low + 1] - lines[low]
    place = (value - lines[low]) / width
    inside = 1.0 if 0.0 <= place <= 1.0 else 0.0
    return low, min(max(place, 0.0), 1.0), inside / width


@kernel
def _whiteness(X, Y, x_lines, y_lines, integral, out):
    height, width = X.shape
    for r in numba.prange(height):
        up, down = max(r - 1, 0), min(r + 1, height - 1)
        for c in range(width):
            left, right = max(c - 1, 0), min(c + 1, width - 1)
            xu = (X[r, right] - X[r, left]) / max(right - left, 1)
            xv = (X[down, c] - X[up, c]) / max(down - up, 1)
            yu = (Y[r, right] - Y[r, left]) / max(right - left, 1)
            yv = (Y[down, c] - Y[up, c]) / max(down - up, 1)
            wx = max(np.sqrt(xu * xu + xv * xv), 1e-9)
            wy = max(np.sqrt(yu * yu + yv * yv), 1e-9)
            i0, s0, d0 = _locate(x_lines, X[r, c] - 0.5 * wx)
            i1, s1, d1 = _locate(x_lines, X[r, c] + 0.5 * wx)
            j0, t0, e0 = _locate(y_lines, Y[r, c] - 0.5 * wy)
            j1, t1, e1 = _locate(y_lines, Y[r, c] + 0.5 * wy)
            # Rows of the integral at both ends in y, for each end in x.
            a00 = integral[j0, i0] * (1 - t0) + integral[j0 + 1, i0] * t0
            a01 = integral[j0, i0 + 1] * (1 - t0) + integral[j0 + 1, i0 + 1] * t0
            b00 = integral[j1, i0] * (1 - t1) + integral[j1 + 1, i0] * t1
            b01 = integral[j1, i0 + 1] * (1 - t1) + integral[j1 + 1, i0 + 1] * t1
            a10 = integral[j0, i1] * (1 - t0) + integral[j0 + 1, i1] * t0
            a11 = integral[j0, i1 + 1] * (1 - t0) + integral[j0 + 1, i1 + 1] * t0
            b10 = integral[j1, i1] * (1 - t1) + integral[j1 + 1, i1] * t1
            b11 = integral[j1, i1 + 1] * (1 - t1) + integral[j1 + 1, i1 + 1] * t1
            area = wx * wy
            first = (b00 - a00) * (1 - s0) + (b01 - a01) * s0
            last = (b10 - a10) * (1 - s1) + (b11 - a11) * s1
            out[0, r, c] = (last - first) / area
            out[1, r, c] = (((b11 - a11) - (b10 - a10)) * d1
                            - ((b01 - a01) - (b00 - a00)) * d0) / area
            f00 = integral[j0, i0] * (1 - s0) + integral[j0, i0 + 1] * s0
            f01 = integral[j0 + 1, i0] * (1 - s0) + integral[j0 + 1, i0 + 1] * s0
            g00 = integral[j0, i1] * (1 - s1) + integral[j0, i1 + 1] * s1
            g01 = integral[j0 + 1, i1] * (1 - s1) + integral[j0 + 1, i1 + 1] * s1
            f10 = integral[j1, i0] * (1 - s0) + integral[j1, i0 + 1] * s0
            f11 = integral[j1 + 1, i0] * (1 - s0) + integral[j1 + 1, i0 + 1] * s0
            g10 = integral[j1, i1] * (1 - s1) + integral[j1, i1 + 1] * s1
            g11 = integral[j1 + 1, i1] * (1 - s1) + integral[j1 + 1, i1 + 1] * s1
            out[2, r, c] = (((g11 - f11) - (g10 - f10)) * e1
                            - ((g01 - f01) - (g00 - f00)) * e0) / area
