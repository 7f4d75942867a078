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


@kernel
def _map_forward(lens, k, equidistant, render, position):
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        x = y = before_x = before_y = np.nan
        for u in range(position.shape[1]):
            xd, yd = (u - cx) / fx, (v - cy) / fy
            if equidistant:
                radius = math.sqrt(xd * xd + yd * yd)
                theta = solve_equidistant(radius, k[0], k[1], k[2], k[3])
                scale = math.tan(theta) / radius if radius > 1e-8 else 1.0
                if theta >= 0.5 * math.pi:
                    scale = np.nan
                x, y = xd * scale, yd * scale
            else:
                if u >= 2 and math.isfinite(x + before_x):
                    # The two neighbours' solutions, continued, and one step of Newton: its
                    # length squared is the error that is left.
                    x, before_x = x + (x - before_x), x
                    y, before_y = y + (y - before_y), y
                    gx, gy = rational_kernel(x, y, k[0], k[1], k[2], k[3], k[4], k[5], k[6],
                                             k[7])
                    a, b, d = rational_jacobian_kernel(x, y, k[0], k[1], k[2], k[3], k[4], k[5],
                                                       k[6], k[7])
                    scale = 1 / (a * d - b * b)
                    sx = (d * (gx - xd) - b * (gy - yd)) * scale
                    sy = (a * (gy - yd) - b * (gx - xd)) * scale
                    x, y = x - sx, y - sy
                    if not (abs(sx) + abs(sy) < 1e-5 and scale > 0 and a > 0):
                        x, y = solve_rational(xd, yd, xd, yd, k[0], k[1], k[2], k[3], k[4], k[5],
                                              k[6], k[7])
                else:
                    before_x, before_y = x, y
                    x, y = solve_rational(xd, yd, xd, yd, k[0], k[1], k[2], k[3], k[4], k[5],
                                          k[6], k[7])
            position[v, u, 0] = x * render[0] + render[2]
            position[v, u, 1] = y * render[1] + render[3]


@kernel
def _map_backward(lens, k, equidistant, render, position, grad, partial):
    """Row sums of the gradient in fx, fy, cx, cy and the coefficients: partial (H, 12)."""
    fx, fy, cx, cy = lens
    for v in numba.prange(position.shape[0]):
        sums = np.zeros(12)
        for u in range(position.shape[1]):
            gx, gy = grad[v, u, 0] * render[0], grad[v, u, 1] * render[1]
            xd, yd = (u - cx) / fx, (v - cy) / fy
            x = (position[v, u, 0] - render[2]) / render[0]
            y = (position[v, u, 1] - render[3]) / render[1]
            if equidistant:
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
            else:
                a, b, d = rational_jacobian_kernel(x, y, k[0], k[1], k[2], k[3], k[4], k[5],
                                                   k[6], k[7])
                det = a * d - b * b
                lx, ly = (d * gx - b * gy) / det, (a * gy - b * gx) / det
                r2 = x * x + y * y
                below = 1 + r2 * (k[5] + r2 * (k[6] + r2 * k[7]))
                radial = (1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))) / below
                along = -(lx * x + ly * y) * r2 / below
                sums[4] += along
                sums[5] += along * r2
                sums[8] += along * r2 * r2
                sums[6] -= lx * 2 * x * y + ly * (r2 + 2 * y * y)
                sums[7] -= lx * (r2 + 2 * x * x) + ly * 2 * x * y
                along *= -radial
                sums[9] += along
                sums[10] += along * r2
                sums[11] += along * r2 * r2
            sums[0] -= lx * xd / fx
            sums[1] -= ly * yd / fy
            sums[2] -= lx / fx
            sums[3] -= ly / fy
        partial[v] = sums
