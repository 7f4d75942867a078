"""
The board as the camera sees it before any optics: radiance and depth at every pixel.

A plane needs no rasteriser: each pixel's ray meets it at one point, and the printed pattern,
averaged over the pixel's footprint there, has a closed form. That is exact, antialiased and
differentiable in pose and lens.
"""

from dataclasses import dataclass
import math

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrate import shape
from diffphyscam_ros.calibrate.target import Pattern
from diffphyscam_ros.geometry import exp_so3
from diffphyscam_ros.kernels import inline, kernel, numba


@dataclass(frozen=True)
class Print:
    """A pattern prepared for filtered look-up."""

    x_lines: np.ndarray
    """(n + 1,) cell borders [m]."""
    y_lines: np.ndarray
    """(m + 1,)"""
    white: np.ndarray
    """(m, n) 1 where the cell is white."""
    area: tuple[float, float, float, float]
    """x0, y0, x1, y1 [m]: where the pattern is known for certain."""


def prepare(pattern: Pattern) -> Print:
    """Lay a pattern out for :func:`whiteness`."""
    return Print(np.ascontiguousarray(pattern.x_lines, np.float64),
                 np.ascontiguousarray(pattern.y_lines, np.float64),
                 np.ascontiguousarray(pattern.white, np.float64), pattern.area)


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


def whiteness(X: Tensor, Y: Tensor, blur: Tensor, pattern: Print) -> Tensor:
    """
    Share of white that each pixel sees (h, w), at board points X, Y (h, w) [m].

    The pattern is averaged over the pixel's area and a Gaussian of standard deviation ``blur``
    [px], the camera's residual blur, in closed form: exact for straight edges at any place
    between the pixels, where a filter of pixels that were sampled before would depend on it. The
    footprint on the board is an upright rectangle with the second moments of the pixel's
    parallelogram. Gradients reach X, Y and blur; that of the footprint's size is left out, it
    is of third order.
    """
    return _Whiteness.apply(X, Y, blur, pattern)


class _Whiteness(torch.autograd.Function):

    @staticmethod
    def forward(ctx, X, Y, blur, pattern):
        x, y = X.detach().double().contiguous().numpy(), Y.detach().double().contiguous().numpy()
        out = np.empty((4, *x.shape), np.float32)
        _whiteness(x, y, max(blur.item(), 0.02), pattern.x_lines, pattern.y_lines, pattern.white,
                   out)
        value, ctx.dx, ctx.dy, ctx.db = torch.from_numpy(out)
        ctx.blur = blur
        return value.to(X.dtype)

    @staticmethod
    def backward(ctx, grad):
        return (grad * ctx.dx.to(grad), grad * ctx.dy.to(grad),
                (grad * ctx.db.to(grad)).sum().to(ctx.blur), None)


@inline
def _cell(lines, value):
    """Cell of ``value``; the outermost cells go on for ever."""
    low, high = 0, lines.size - 1
    while high - low > 1:
        middle = (low + high) // 2
        if lines[middle] <= value:
            low = middle
        else:
            high = middle
    return low


@inline
def _edge(z, width, sigma):
    """Share of a box convolved with a Gaussian below z, its slope, its derivative in sigma."""
    a, b = (z + 0.5 * width) / sigma, (z - 0.5 * width) / sigma
    if b > 6.0:
        return 1.0, 0.0, 0.0
    if a < -6.0:
        return 0.0, 0.0, 0.0
    pa = 0.3989422804014327 * math.exp(-0.5 * a * a)
    pb = 0.3989422804014327 * math.exp(-0.5 * b * b)
    ca = 0.5 + 0.5 * math.erf(a * 0.7071067811865476)
    cb = 0.5 + 0.5 * math.erf(b * 0.7071067811865476)
    return (sigma * (a * ca + pa - b * cb - pb) / width, (ca - cb) / width, (pa - pb) / width)


@kernel
def _whiteness(X, Y, blur, x_lines, y_lines, white, out):
    height, width = X.shape
    for r in numba.prange(height):
        up, down = max(r - 1, 0), min(r + 1, height - 1)
        for c in range(width):
            left, right = max(c - 1, 0), min(c + 1, width - 1)
            xu = (X[r, right] - X[r, left]) / max(right - left, 1)
            xv = (X[down, c] - X[up, c]) / max(down - up, 1)
            yu = (Y[r, right] - Y[r, left]) / max(right - left, 1)
            yv = (Y[down, c] - Y[up, c]) / max(down - up, 1)
            wx = max(math.sqrt(xu * xu + xv * xv), 1e-9)
            wy = max(math.sqrt(yu * yu + yv * yv), 1e-9)
            sx, sy = blur * wx, blur * wy
            rx, ry = 0.5 * wx + 4.0 * sx, 0.5 * wy + 4.0 * sy
            i0, i1 = _cell(x_lines, X[r, c] - rx), _cell(x_lines, X[r, c] + rx)
            j0, j1 = _cell(y_lines, Y[r, c] - ry), _cell(y_lines, Y[r, c] + ry)
            total, slope_x, slope_y, slope_b = 0.0, 0.0, 0.0, 0.0
            ay, ky, by = 0.0, 0.0, 0.0
            for j in range(j0, j1 + 1):
                if j == j1:
                    ny, ly, cy = 1.0, 0.0, 0.0
                else:
                    ny, ly, cy = _edge(y_lines[j + 1] - Y[r, c], wy, sy)
                ax, kx, bx = 0.0, 0.0, 0.0
                for i in range(i0, i1 + 1):
                    if i == i1:
                        nx, lx, cx = 1.0, 0.0, 0.0
                    else:
                        nx, lx, cx = _edge(x_lines[i + 1] - X[r, c], wx, sx)
                    if white[j, i] != 0.0:
                        mx, my = nx - ax, ny - ay
                        total += white[j, i] * mx * my
                        slope_x -= white[j, i] * (lx - kx) * my
                        slope_y -= white[j, i] * mx * (ly - ky)
                        slope_b += white[j, i] * ((cx - bx) * wx * my + mx * (cy - by) * wy)
                    ax, kx, bx = nx, lx, cx
                ay, ky, by = ny, ly, cy
            out[0, r, c], out[1, r, c] = total, slope_x
            out[2, r, c], out[3, r, c] = slope_y, slope_b
