"""
Defocus in plain torch: any device and dtype, gradients by autograd.

The reference of the fused CPU kernels and the path CUDA takes. The method is described in
docs/defocus.md: scatter into layers of signed blur, nearest first; each output pixel's aperture
fills up front to back until it is full; what an edge hides is copied from the nearest pixel of
the surface behind.
"""

import numpy as np
import torch
from torch import Tensor
import torch.nn.functional as F

from diffphyscam_ros.optics.psf import ladder

#: [px] reach of the search for hidden surfaces.
HIDDEN_REACH = 32
#: Half width of the smooth corner where an aperture becomes full.
CORNER = 0.02


def search_offsets() -> np.ndarray:
    """(n, 2) offsets (dy, dx), nearest first: all within 4 px, then 16 directions."""
    near = [(y, x) for y in range(-4, 5) for x in range(-4, 5) if 0 < y * y + x * x <= 16]
    angles = np.arange(16) * (2 * np.pi / 16)
    far = [(round(r * np.sin(a)), round(r * np.cos(a)))
           for r in (5, 6, 8, 10, 13, 16, 20, 25, HIDDEN_REACH) for a in angles]
    return np.array(sorted(near + far, key=lambda o: o[0] ** 2 + o[1] ** 2))


def hidden_source(radius: Tensor) -> Tensor:
    """
    For each pixel, the flat index of the nearest pixel whose surface shows behind it.

    A surface that is ``difference`` px more blurred (signed radius) shows through the edge of a
    nearer one up to that many pixels deep. (H, W) signed radius [px] -> (H, W) int64, the pixel
    itself where nothing is hidden.
    """
    height, width = radius.shape
    rows = torch.arange(height, device=radius.device)[:, None]
    columns = torch.arange(width, device=radius.device)
    own = rows * width + columns
    found = own.clone()
    for dy, dx in search_offsets():
        there = ((rows + dy).clamp(0, height - 1) * width + (columns + dx).clamp(0, width - 1))
        distance = float(np.hypot(dy, dx))
        shows = (radius.flatten()[there] - radius > distance) & (found == own)
        found = torch.where(shows, there, found)
    return found


def full(coverage: Tensor) -> Tensor:
    """min(coverage, 1) with its corner rounded over 1 -+ CORNER; once differentiable."""
    over = (coverage - (1 - CORNER)).clamp(0, 2 * CORNER)
    return coverage.clamp_max(1 - CORNER) + over - over * over / (4 * CORNER)


def scatter(radiance: Tensor, moment: Tensor, radius: Tensor, psf: str) -> Tensor:
    """
    One image (H, W, C) blurred by the second moment (H, W) [px^2] of each of its pixels.

    ``radius`` (H, W) [px] is signed: negative in front of the focus.
    """
    kernels, moments = ladder(psf)
    table = torch.as_tensor(moments, dtype=moment.dtype, device=moment.device)
    with torch.no_grad():
        behind = hidden_source(radius)
    rows, columns = behind // behind.shape[1], behind % behind.shape[1]
    distance = torch.hypot((rows - torch.arange(len(rows), device=rows.device)[:, None]).to(moment),
                           (columns - torch.arange(rows.shape[1], device=rows.device)).to(moment))
    gain = (radius[rows, columns] - radius - distance).clamp(0, 1)
    hidden = torch.where(distance > 0, gain, torch.zeros_like(gain))
    color = torch.cat([radiance, torch.ones_like(radiance[..., :1])], -1)

    below = (torch.searchsorted(table, moment.detach(), right=True) - 1).clamp(0, len(table) - 2)
    upper = (moment - table[below]) / (table[below + 1] - table[below])
    side = torch.where(radius.detach() < 0, -1, 1)
    covered = torch.zeros_like(moment)
    total = torch.zeros_like(radiance)
    levels = torch.cat([(side * below).unique(), (side * (below + 1)).unique()]).unique()
    for level in levels.tolist():
        weight = (torch.where(side * below == level, 1 - upper, 0)
                  + torch.where(side * (below + 1) == level, upper, 0))
        weight_hidden = weight[rows, columns] * hidden
        layer = color * weight[..., None] + color[rows, columns] * weight_hidden[..., None]
        kernel = torch.as_tensor(kernels[abs(level)], dtype=moment.dtype, device=moment.device)
        spread = F.conv2d(layer.permute(2, 0, 1)[:, None], kernel[None, None],
                          padding=len(kernel) // 2)[:, 0].permute(1, 2, 0)
        share = spread[..., -1]
        seen = full(covered + share) - full(covered)
        total = total + spread[..., :-1] * (seen / share.clamp_min(1e-12))[..., None]
        covered = covered + share
    return total / full(covered)[..., None]
