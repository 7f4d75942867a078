"""
Scatter in plain torch: any device and dtype, gradients by autograd.

The reference of the fused CPU kernels and the path CUDA takes.
"""

import torch
from torch import Tensor
import torch.nn.functional as F

from diffphyscam_ros.optics.circle import blur, check_depth
from diffphyscam_ros.optics.defocus_hidden import find_hidden, hidden_layer
from diffphyscam_ros.optics.psf import dense_quadrants, ladder

#: Coverage over which a full aperture closes; a power of two, exact in every precision.
CORNER = 1 / 128
#: Shares below this are rounding.
FAINT = 1e-6


def blur_image(radiance: Tensor, depth: Tensor, infinity: Tensor, focus_distance: Tensor,
               dead_zone: Tensor, psf: str) -> Tensor:
    """Defocus (H, W, C) by its depth (H, W) [m]; see circle.py for the numbers."""
    check_depth(bool((depth > 0).all()))
    numbers = (infinity, focus_distance, dead_zone)
    moment, radius = blur(depth, *numbers)
    front, behind = find_hidden(radius.detach())
    pair_moment, pair_radius = blur(depth.reshape(-1)[torch.stack([front, behind])], *numbers)
    color, weight = hidden_layer(radiance, pair_radius, front, behind)
    hidden = (front, color, weight, pair_moment[1], _side(pair_radius[1]))
    return scatter(radiance, moment, _side(radius), hidden, psf)


def _side(radius: Tensor) -> Tensor:
    return torch.where(radius.detach() < 0, -1, 1)


def full(coverage: Tensor) -> Tensor:
    """min(coverage, 1), with a corner rounded over 1 to 1 + CORNER; once differentiable."""
    over = (coverage - 1).clamp(0, CORNER)
    return coverage.clamp_max(1) + over - over * over / (2 * CORNER)


def seen_share(before: Tensor, share: Tensor) -> Tensor:
    """How much of a layer passes what covers it: (full(before + share) - full(before)) / share."""
    after = before + share
    open_ = after <= 1
    some = (share > FAINT) & ~open_
    quotient = (full(after) - full(before)) / torch.where(some, share, 1)
    slope = ((1 + CORNER - before) / CORNER).clamp(0, 1)
    return torch.where(some, quotient, torch.where(open_, torch.ones_like(slope), slope))


def scatter(color: Tensor, moment: Tensor, side: Tensor, hidden: tuple, psf: str) -> Tensor:
    """
    Blur each pixel of (H, W, C) by its second moment (H, W) [px^2], nearest layers first.

    :param side: (H, W) sign of the blur: -1 in front of the focus, 1 behind it.
    :param hidden: the second layer: flat index (n,), colour (n, C), weight (n,), moment (n,),
        side (n,).
    """
    height, width, channels = color.shape
    steps = ladder(psf)
    table = torch.as_tensor(steps.moments, dtype=moment.dtype, device=moment.device)
    index, hidden_color, hidden_weight, hidden_moment, hidden_side = hidden
    values = torch.cat([moment.reshape(-1), hidden_moment])
    sides = torch.cat([side.reshape(-1), hidden_side])
    weights = torch.cat([torch.ones_like(moment).reshape(-1), hidden_weight])
    colors = torch.cat([color.reshape(-1, channels), hidden_color])
    places = torch.cat([torch.arange(height * width, device=color.device), index])
    below = (torch.searchsorted(table, values.detach(), right=True) - 1).clamp(0, len(table) - 2)
    upper = (values - table[below]) / (table[below + 1] - table[below])
    energy = torch.cat([colors, torch.ones_like(colors[:, :1])], -1) * weights[:, None]

    covered = torch.zeros(4, height, width, dtype=color.dtype, device=color.device)
    total = torch.zeros_like(color)
    levels = torch.cat([sides * below, sides * (below + 1)]).unique()
    for level in levels.tolist():
        part = (torch.where(sides * below == level, 1 - upper, 0)
                + torch.where(sides * (below + 1) == level, upper, 0))
        layer = torch.zeros(height * width, channels + 1, dtype=color.dtype,
                            device=color.device).index_add(0, places, energy * part[:, None])
        quadrants = torch.as_tensor(dense_quadrants(psf, abs(level)), dtype=color.dtype,
                                    device=color.device)
        quadrants = quadrants.flip(0) if level < 0 else quadrants
        spread = F.conv2d(layer.T.reshape(channels + 1, 1, height, width), quadrants[:, None],
                          padding=quadrants.shape[-1] // 2)
        share = spread[-1]
        total = total + (spread[:-1] * seen_share(covered, share)).sum(1).permute(1, 2, 0)
        covered = covered + share
    return total / full(covered).sum(0)[..., None]
