"""
Defocus as DiffPhysCam (arXiv 2508.08831) and Chrono::Sensor publish it, for comparison only.

Each pixel is spread over an odd square kernel of k = ceil(a c) px (made odd, clipped to
[1, max_kernel]), by a Gaussian of sigma = k/6 that is not renormalised, or evenly; what falls
over the image border is lost. k is an integer, so neither lens nor depth gets a gradient.
"""

import math

import torch
from torch import Tensor

from diffphyscam_ros.optics.defocus import signed_diameter


def kernel_size(depth: Tensor, *, focal_length, f_number, focus_distance, pixel_pitch, gain=1.0,
                max_kernel: int = 21) -> Tensor:
    """Odd kernel size [px] (*batch, H, W) int of each pixel."""
    diameter = signed_diameter(depth.detach(), focal_length=focal_length, f_number=f_number,
                               focus_distance=focus_distance, pixel_pitch=pixel_pitch,
                               gain=gain).abs()
    size = diameter.clamp_max(max_kernel).ceil().int()
    return (size + (size % 2 == 0)).clamp(1, max_kernel)


def published_defocus(radiance: Tensor, size: Tensor, kind: str) -> Tensor:
    """
    Scatter radiance (*batch, H, W, C) by kernels of ``size`` (*batch, H, W) px.

    :param kind: 'gaussian' or 'uniform'.
    """
    height, width = radiance.shape[-3:-1]
    out = torch.zeros_like(radiance)
    reach = int(size.max()) // 2
    k2 = size.to(radiance).square()
    peak = 36 / (2 * math.pi * k2) if kind == 'gaussian' else 1 / k2
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            weight = peak * (size // 2 >= max(abs(dx), abs(dy)))
            if kind == 'gaussian':
                weight = weight * torch.exp(-18 * (dx * dx + dy * dy) / k2)
            share = radiance * torch.where(size == 1, float(dx == dy == 0), weight)[..., None]
            to_y, to_x = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0),
                                                                       width + min(dx, 0))
            from_y, from_x = slice(max(-dy, 0), height + min(-dy, 0)), slice(
                max(-dx, 0), width + min(-dx, 0))
            out[..., to_y, to_x, :] += share[..., from_y, from_x, :]
    return out
