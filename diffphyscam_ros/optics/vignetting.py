"""
Vignetting: the natural cos^4 fall-off with tunable strength, times an even radial polynomial.

E = L (1 - G (1 - cos^4 theta)) (1 + a2 r^2 + a4 r^4 + a6 r^6), G = 0 and a = 0 being "off".
The first factor is DiffPhysCam's (arXiv 2508.08831); the second stands for mechanical vignetting,
measured by a flat field as in R. Lenz, PhD thesis, TU Munich 1988.
"""

import functools

import torch
from torch import Tensor

from diffphyscam_ros.optics import pixel_map


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
    flat = (position - render[2:]) / render[:2]
    cos2 = 1 / (1 + flat.square().sum(-1))
    natural = 1 - gain * (1 - cos2 * cos2)
    if not polynomial.requires_grad and not bool(polynomial.any()):
        return natural
    height, width = position.shape[:2]
    v = torch.arange(height).to(position)[:, None] - intrinsics[3]
    u = torch.arange(width).to(position) - intrinsics[2]
    r2 = (u * u + v * v) * (4 / (height ** 2 + width ** 2))
    a2, a4, a6 = polynomial
    return natural * (1 + r2 * (a2 + r2 * (a4 + r2 * a6))).clamp_min(0)


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
