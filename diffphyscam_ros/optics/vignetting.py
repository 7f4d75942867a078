"""
Vignetting: the natural cos^4 fall-off with tunable strength, times an even radial polynomial.

E = L (1 - G (1 - cos^4 theta)) (1 + a2 r^2 + a4 r^4 + a6 r^6), G = 0 and a = 0 being "off".
The first factor is DiffPhysCam's (arXiv 2508.08831); the second stands for mechanical vignetting,
measured by a flat field as in R. Lenz, PhD thesis, TU Munich 1988.
"""

import functools

import numba
import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline, kernel
from diffphyscam_ros.optics import pixel_map


def natural(flat2, gain):
    """Share of the light at squared tangent ``flat2`` of the angle to the axis."""
    return 1 - gain * (1 - 1 / ((1 + flat2) * (1 + flat2)))


def mechanical(r2, a2, a4, a6):
    """Even polynomial of the squared distance from the principal point."""
    return 1 + r2 * (a2 + r2 * (a4 + r2 * a6))


_natural_kernel, _mechanical_kernel = inline(natural), inline(mechanical)


def fall_off(position: Tensor, render: Tensor, intrinsics: Tensor, gain: Tensor,
             polynomial: Tensor) -> Tensor:
    """
    Relative illumination (H, W) of each image pixel, differentiable in everything.

    :param position: (H, W, 2) [px] where each pixel looks in the pinhole rendering.
    :param render: (4,) fx, fy, cx, cy [px] of the rendering: turns positions into rays.
    :param intrinsics: (4,) fx, fy, cx, cy [px] of the image: the polynomial's centre.
    :param gain: G. theta is the angle between the pixel's ray and the optical axis.
    :param polynomial: (3,) a2, a4, a6 of r, the distance from the principal point over half
        the image diagonal.
    """
    if position.device.type == 'cpu' and position.dtype == torch.float32:
        return _FallOff.apply(position, render, intrinsics, gain, polynomial)
    flat = (position - render[2:]) / render[:2]
    height, width = position.shape[:2]
    v = torch.arange(height).to(position)[:, None] - intrinsics[3]
    u = torch.arange(width).to(position) - intrinsics[2]
    r2 = (u * u + v * v) * (4 / (height ** 2 + width ** 2))
    return natural(flat.square().sum(-1), gain) * mechanical(r2, *polynomial).clamp_min(0)


class _FallOff(torch.autograd.Function):
    """:func:`fall_off` by kernels."""

    @staticmethod
    def forward(ctx, position, render, intrinsics, gain, polynomial):
        numbers = torch.cat([render, intrinsics[2:], gain[None], polynomial])
        ctx.arrays = position.detach().contiguous().numpy(), numbers.detach().double().numpy()
        out = torch.empty(position.shape[:2])
        _fall_off(*ctx.arrays, out.numpy())
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        position = np.empty_like(ctx.arrays[0])
        sums = np.zeros((len(position), 6))
        _fall_off_back(*ctx.arrays, grad.contiguous().numpy(), position, sums)
        total = torch.from_numpy(sums.sum(0)).to(grad.dtype)
        intrinsics = torch.cat([torch.zeros(2), total[:2]])
        return torch.from_numpy(position), None, intrinsics, total[2], total[3:]


@kernel
def _fall_off(position, numbers, out):
    height, width = out.shape
    fx, fy, cx, cy, center_x, center_y, gain, a2, a4, a6 = numbers
    scale = 4 / (height * height + width * width)
    for row in numba.prange(height):
        for column in range(width):
            x, y = (position[row, column, 0] - cx) / fx, (position[row, column, 1] - cy) / fy
            u, v = column - center_x, row - center_y
            out[row, column] = _natural_kernel(x * x + y * y, gain) * max(
                _mechanical_kernel((u * u + v * v) * scale, a2, a4, a6), 0)


@kernel
def _fall_off_back(position, numbers, grad, grad_position, sums):
    """Sums per row: gradient of the principal point (2), the gain, the polynomial (3)."""
    height, width = grad.shape
    fx, fy, cx, cy, center_x, center_y, gain, a2, a4, a6 = numbers
    scale = 4 / (height * height + width * width)
    for row in numba.prange(height):
        s0 = s1 = s2 = s3 = s4 = s5 = 0.0
        for column in range(width):
            g = grad[row, column]
            x, y = (position[row, column, 0] - cx) / fx, (position[row, column, 1] - cy) / fy
            u, v = column - center_x, row - center_y
            r2, near = (u * u + v * v) * scale, 1 / (1 + x * x + y * y)
            edge = _mechanical_kernel(r2, a2, a4, a6)
            centre = _natural_kernel(x * x + y * y, gain)
            edge = max(edge, 0.0)
            of_edge = g * centre if edge > 0 else 0.0
            steep = of_edge * (a2 + r2 * (2 * a4 + r2 * 3 * a6)) * -2 * scale
            s0 += steep * u
            s1 += steep * v
            s2 -= g * edge * (1 - near * near)
            s3 += of_edge * r2
            s4 += of_edge * r2 * r2
            s5 += of_edge * r2 * r2 * r2
            # d cos^4 / d tan^2 = -2 cos^6
            fall = g * edge * gain * -4 * near * near * near
            grad_position[row, column, 0] = fall * x / fx
            grad_position[row, column, 1] = fall * y / fy
        sums[row] = s0, s1, s2, s3, s4, s5


@functools.lru_cache(maxsize=8)
def cached_fall_off(intrinsics: tuple, model: str, coefficients: tuple, size: tuple,
                    render: tuple, gain: float, polynomial: tuple) -> tuple[Tensor, Tensor]:
    """Position (H, W, 2) and fall-off (H, W) of plain numbers, kept while they do not change."""
    position = pixel_map.cached_map(intrinsics, model, coefficients, size, render)
    return position, fall_off(position, torch.tensor(render), torch.tensor(intrinsics),
                              torch.tensor(gain), torch.tensor(polynomial)).contiguous()


def vignette(radiance: Tensor, fall_off: Tensor) -> Tensor:
    """Radiance (*batch, H, W, C) times relative illumination (H, W)."""
    return radiance * fall_off[..., None]
