"""
Maps of the sphere as squares: a direction becomes a texel with one division.

Octahedral mapping (Cigolle et al., "A survey of efficient representations for independent unit
vectors", JCGT 2014, sec. 3), +z up; every map carries a border of one texel, mirrored as the
fold demands, so that bilinear lookups need no special case.
"""

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.kernels import inline

_ONE, _HALF = np.float32(1), np.float32(0.5)


def encode(directions: Tensor) -> Tensor:
    """(*batch, 2) coordinates in [0, 1] of directions (*batch, 3) of any length."""
    x, y, z = directions.unbind(-1)
    scale = 1 / (x.abs() + y.abs() + z.abs()).clamp_min(1e-20)
    u, v = x * scale, y * scale
    below = z < 0
    fold_u = torch.where(below, (1 - v.abs()) * _sign(u), u)
    fold_v = torch.where(below, (1 - u.abs()) * _sign(v), v)
    return torch.stack([fold_u, fold_v], -1) * 0.5 + 0.5


def _sign(x: Tensor) -> Tensor:
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype)


def directions(size: int, *, dtype: torch.dtype = torch.float32,
               device: torch.device | str = 'cpu') -> Tensor:
    """Unit vectors (size, size, 3) at the texel centres of a map."""
    t = (torch.arange(size, dtype=dtype, device=device) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(t, t, indexing='ij')
    z = 1 - u.abs() - v.abs()
    x = torch.where(z < 0, (1 - v.abs()) * _sign(u), u)
    y = torch.where(z < 0, (1 - u.abs()) * _sign(v), v)
    return torch.nn.functional.normalize(torch.stack([x, y, z], -1), dim=-1)


def solid_angles(size: int, *, dtype: torch.dtype = torch.float32,
                 device: torch.device | str = 'cpu') -> Tensor:
    """[sr] of each texel (size, size); they sum to 4 pi."""
    t = (torch.arange(size, dtype=dtype, device=device) + 0.5) / size * 2 - 1
    v, u = torch.meshgrid(t, t, indexing='ij')
    z = 1 - u.abs() - v.abs()
    x = torch.where(z < 0, (1 - v.abs()) * _sign(u), u)
    y = torch.where(z < 0, (1 - u.abs()) * _sign(v), v)
    weight = (x * x + y * y + z * z) ** -1.5
    return weight * (4 * torch.pi / weight.sum())


def add_border(texels: Tensor) -> Tensor:
    """(S + 2, S + 2, C) from a map (S, S, C)."""
    wide = torch.cat([texels[:, :1].flip(0), texels, texels[:, -1:].flip(0)], 1)
    top = torch.cat([texels[-1:, -1:], texels[:1].flip(1), texels[-1:, :1]], 1)
    bottom = torch.cat([texels[:1, -1:], texels[-1:].flip(1), texels[:1, :1]], 1)
    return torch.cat([top, wide, bottom], 0)


def halve(texels: Tensor) -> Tensor:
    """Average 2x2 texels of a map (S, S, C), weighted by their solid angles."""
    size = texels.shape[0]
    weight = solid_angles(size, dtype=texels.dtype, device=texels.device)[..., None]
    total = (texels * weight).unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).sum((1, 3))
    return total / weight.unflatten(0, (-1, 2)).unflatten(2, (-1, 2)).sum((1, 3))


def sample(bordered: Tensor, uv: Tensor) -> Tensor:
    """Bilinear lookup (N, C) in a map with border at coordinates (N, 2) in [0, 1]."""
    size = bordered.shape[0] - 2
    grid = (uv * (2 * size) + 2) / (size + 2) - 1
    out = torch.nn.functional.grid_sample(bordered.permute(2, 0, 1)[None], grid[None, None],
                                          align_corners=False, padding_mode='border')
    return out[0, :, 0].mT


@inline
def fold(x, y, z):
    """Coordinates in [0, 1] of a direction of any length: ``encode`` of one vector."""
    scale = _ONE / max(abs(x) + abs(y) + abs(z), np.float32(1e-20))
    u, v = x * scale, y * scale
    folded_u = _ONE - abs(v)
    folded_v = _ONE - abs(u)
    folded_u = -folded_u if u < 0 else folded_u
    folded_v = -folded_v if v < 0 else folded_v
    u = folded_u if z < 0 else u
    v = folded_v if z < 0 else v
    return u * _HALF + _HALF, v * _HALF + _HALF
