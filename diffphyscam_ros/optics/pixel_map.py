"""
Where in the pinhole rendering each image pixel looks: the inverse of the lens, pixel by pixel.

Kernels serve float32 on the CPU: Newton's method forward, the implicit function's derivatives
backward; torch serves the rest with the same formulas.
"""

import functools
import math

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import kernel
from diffphyscam_ros.optics import distortion
from diffphyscam_ros.optics.distortion import (
    equidistant_slope_kernel,
    rational_jacobian_kernel,
    rational_kernel,
    solve_equidistant,
    solve_rational,
)

#: Rows of a band: two of them are solved, the others are continued from those above.
BAND = 32


def pixel_map(intrinsics: Tensor, model: str, coefficients: Tensor, size: tuple[int, int],
              render_matrix: Tensor) -> Tensor:
    """
    Where in the pinhole rendering each image pixel looks: (H, W, 2) = (x, y) [px].

    :param intrinsics: (4,) fx, fy, cx, cy of the image; differentiable.
    :param coefficients: (n,) of the distortion model; differentiable.
    :param render_matrix: (3, 3) K of the rendering, a constant.
    """
    k = render_matrix.detach().double()
    render = torch.stack([k[0, 0], k[1, 1], k[0, 2], k[1, 2]]).cpu()
    if intrinsics.device.type == 'cpu' and intrinsics.dtype == torch.float32:
        return _PixelMap.apply(intrinsics, coefficients, model, size, render)
    fx, fy, cx, cy = intrinsics
    v, u = torch.meshgrid(torch.arange(size[0]).to(intrinsics), torch.arange(size[1])
                          .to(intrinsics), indexing='ij')
    bent = torch.stack([(u - cx) / fx, (v - cy) / fy], -1)
    render = render.to(intrinsics)
    return distortion.undistort(bent, model, coefficients) * render[:2] + render[2:]


@functools.lru_cache(maxsize=8)
def cached_map(intrinsics: tuple, model: str, coefficients: tuple, size: tuple,
               render: tuple) -> Tensor:
    """:func:`pixel_map` of plain numbers, float32 on the CPU, kept while they do not change."""
    return _PixelMap.apply(torch.tensor(intrinsics, dtype=torch.float64),
                           torch.tensor(coefficients, dtype=torch.float64), model, size,
                           torch.tensor(render, dtype=torch.float64))


class _PixelMap(torch.autograd.Function):
    """:func:`pixel_map` by kernels: Newton per pixel forward, implicit derivatives backward."""

    @staticmethod
    def forward(ctx, intrinsics, coefficients, model, size, render):
        lens = intrinsics.detach().double().numpy()
        k = np.zeros(8)
        k[:len(coefficients)] = coefficients.detach().double().numpy()
        position = torch.empty(*size, 2)
        _map_forward(lens, k, model == 'equidistant', render.numpy(), position.numpy())
        ctx.save_for_backward(intrinsics, coefficients)
        ctx.lens, ctx.k, ctx.model, ctx.render, ctx.position = lens, k, model, render, position
        return position

    @staticmethod
    def backward(ctx, grad):
        partial = np.zeros((grad.shape[0], 12))
        _map_backward(ctx.lens, ctx.k, ctx.model == 'equidistant', ctx.render.numpy(),
                      ctx.position.numpy(), grad.contiguous().numpy(), partial)
        total = torch.from_numpy(partial.sum(0))
        intrinsics, coefficients = ctx.saved_tensors
        return (total[:4].to(intrinsics), total[4:4 + len(coefficients)].to(coefficients),
                None, None, None)


def _map_forward(lens, k, equidistant, render, position):
    (_equidistant_forward if equidistant else _rational_forward)(lens, k, render, position)


def _map_backward(lens, k, equidistant, render, position, grad, partial):
    """Row sums of the gradient in fx, fy, cx, cy and the coefficients: partial (H, 12)."""
    (_equidistant_backward if equidistant else _rational_backward)(lens, k, render, position,
                                                                   grad, partial)


@kernel
def _equidistant_forward(lens, k, render, position):
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        for u in range(position.shape[1]):
            xd, yd = (u - cx) / fx, (v - cy) / fy
            radius = math.sqrt(xd * xd + yd * yd)
            theta = solve_equidistant(radius, k[0], k[1], k[2], k[3])
            scale = math.tan(theta) / radius if radius > 1e-8 else 1.0
            if theta >= 0.5 * math.pi:
                scale = np.nan
            position[v, u, 0] = xd * scale * render[0] + render[2]
            position[v, u, 1] = yd * scale * render[1] + render[3]


@kernel
def _rational_forward(lens, k, render, position):
    """
    Bands of rows: the first two are solved, each next one is continued from two above it.

    A continued row takes one step of Newton's method, all columns at once; the step's length
    squared is the error that is left. Columns where it is too long are solved.
    """
    height, width = position.shape[:2]
    fx, fy, cx, cy = lens
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    for band in numba.prange((height + BAND - 1) // BAND):
        first = band * BAND
        x, y = np.empty(width), np.empty(width)
        before_x, before_y = np.empty(width), np.empty(width)
        for v in range(first, min(first + BAND, height)):
            yd = (v - cy) / fy
            if v - first >= 2:
                for u in range(width):
                    xd = (u - cx) / fx
                    gx, gy = 2 * x[u] - before_x[u], 2 * y[u] - before_y[u]
                    hx, hy = rational_kernel(gx, gy, k1, k2, p1, p2, k3, k4, k5, k6)
                    a, b, d = rational_jacobian_kernel(gx, gy, k1, k2, p1, p2, k3, k4, k5, k6)
                    scale = 1 / (a * d - b * b)
                    sx = (d * (hx - xd) - b * (hy - yd)) * scale
                    sy = (a * (hy - yd) - b * (hx - xd)) * scale
                    good = (abs(sx) + abs(sy) < 1e-5) & (scale > 0) & (a > 0)
                    before_x[u], before_y[u] = x[u], y[u]
                    x[u] = gx - sx if good else np.nan
                    y[u] = gy - sy
            else:
                for u in range(width):
                    before_x[u], before_y[u] = x[u], y[u]
                    x[u] = np.nan
            for u in range(width):
                if not math.isfinite(x[u]):
                    xd = (u - cx) / fx
                    x[u], y[u] = solve_rational(xd, yd, xd, yd, k1, k2, p1, p2, k3, k4, k5, k6)
            for u in range(width):
                position[v, u, 0] = x[u] * render[0] + render[2]
                position[v, u, 1] = y[u] * render[1] + render[3]


@kernel
def _equidistant_backward(lens, k, render, position, grad, partial):
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        sums = np.zeros(12)
        for u in range(position.shape[1]):
            gx, gy = grad[v, u, 0] * render[0], grad[v, u, 1] * render[1]
            xd, yd = (u - cx) / fx, (v - cy) / fy
            x = (position[v, u, 0] - render[2]) / render[0]
            y = (position[v, u, 1] - render[3]) / render[1]
            radius = math.sqrt(xd * xd + yd * yd)
            if radius < 1e-8:
                lx, ly = gx, gy
            else:
                mx, my = xd / radius, yd / radius
                flat = math.sqrt(x * x + y * y)             # tan(theta)
                theta = math.atan(flat)
                radial = ((gx * mx + gy * my) * (1 + flat * flat)
                          / equidistant_slope_kernel(theta, k[0], k[1], k[2], k[3]))
                around = (gy * mx - gx * my) * flat / radius
                lx, ly = radial * mx - around * my, radial * my + around * mx
                t2 = theta * theta
                power = -radial * theta * t2
                for i in range(4):
                    sums[4 + i] += power
                    power *= t2
            sums[0] -= lx * xd / fx
            sums[1] -= ly * yd / fy
            sums[2] -= lx / fx
            sums[3] -= ly / fy
        partial[v] = sums


@kernel
def _rational_backward(lens, k, render, position, grad, partial):
    fx, fy, cx, cy = lens
    k1, k2, p1, p2, k3, k4, k5, k6 = k
    for v in numba.prange(position.shape[0]):
        yd = (v - cy) / fy
        s_fx, s_cx, s_cy = 0.0, 0.0, 0.0
        s1, s2, s3, s4, s5, s6, t1, t2 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for u in range(position.shape[1]):
            gx, gy = grad[v, u, 0] * render[0], grad[v, u, 1] * render[1]
            x = (position[v, u, 0] - render[2]) / render[0]
            y = (position[v, u, 1] - render[3]) / render[1]
            a, b, d = rational_jacobian_kernel(x, y, k1, k2, p1, p2, k3, k4, k5, k6)
            inverse = 1 / (a * d - b * b)
            lx, ly = (d * gx - b * gy) * inverse, (a * gy - b * gx) * inverse
            r2 = x * x + y * y
            below = 1 / (1 + r2 * (k4 + r2 * (k5 + r2 * k6)))
            radial = (1 + r2 * (k1 + r2 * (k2 + r2 * k3))) * below
            along = -(lx * x + ly * y) * r2 * below
            s1 += along
            s2 += along * r2
            s3 += along * r2 * r2
            t1 -= lx * 2 * x * y + ly * (r2 + 2 * y * y)
            t2 -= lx * (r2 + 2 * x * x) + ly * 2 * x * y
            along *= -radial
            s4 += along
            s5 += along * r2
            s6 += along * r2 * r2
            s_fx -= lx * (u - cx)
            s_cx -= lx
            s_cy -= ly
        row = partial[v]
        row[0], row[1], row[2], row[3] = s_fx / (fx * fx), s_cy * yd / fy, s_cx / fx, s_cy / fy
        row[4], row[5], row[6], row[7] = s1, s2, t1, t2
        row[8], row[9], row[10], row[11] = s3, s4, s5, s6
