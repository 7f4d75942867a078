"""
Mip-mapped look-ups of textures of any size, in torch, around a bilinear look-up.

For backends whose own mip-maps need even sizes. The same levels and the same level choice as
cpu/mipmap.py and cpu/texture_taps.py.
"""

from collections.abc import Callable
import functools
import math

import torch
from torch import Tensor

#: Direction components for S, T and the division per cube axis, and the signs of S and T.
_AXES = ((2, 1, 0), (0, 2, 1), (0, 1, 2))
_SIGN_S, _SIGN_T = (-1, 1, 1, 1, 1, -1), (-1, -1, 1, -1, -1, -1)


def can_halve(height: int, width: int, limit: int | None) -> bool:
    """Whether every level down to 1x1 (or ``limit``) comes from sizes that are even or one."""
    level = 0
    while (height, width) != (1, 1) and (limit is None or level < limit):
        if (height > 1 and height % 2) or (width > 1 and width % 2):
            return False
        height, width, level = max(height // 2, 1), max(width // 2, 1), level + 1
    return True


@functools.cache
def _halving(size: int) -> Tensor:
    """Weights (max(size // 2, 1), size) of the box filter; rows sum to one."""
    target = max(size // 2, 1)
    edges = torch.arange(target + 1, dtype=torch.float64) * size / target
    texel = torch.arange(size, dtype=torch.float64)
    overlap = torch.minimum(edges[1:, None], texel + 1) - torch.maximum(edges[:-1, None], texel)
    return overlap.clamp_min(0) * target / size


def mip_levels(tex: Tensor, limit: int | None = None) -> list[Tensor]:
    """All levels of (B, faces, h, w, C), the base first; differentiable."""
    levels = [tex]
    while tuple(levels[-1].shape[2:4]) != (1, 1) and (limit is None or len(levels) <= limit):
        above = levels[-1]
        rows, columns = (_halving(n).to(above) for n in above.shape[2:4])
        levels.append(torch.einsum('yi,xj,bfijc->bfyxc', rows, columns, above))
    return levels


def footprint_level(uv: Tensor, uv_da: Tensor, height: int, width: int) -> Tensor:
    """Mip level (B, H, W): log2 of the footprint's major axis in texels; see texture_taps."""
    uv, uv_da = uv.double(), uv_da.double()
    if uv.shape[-1] == 3:
        uv_da = _face_derivatives(uv, uv_da)
    sx, sy, tx, ty = (uv_da * uv_da.new_tensor([width, width, height, height])).unbind(-1)
    a, b, c = sx * sx + tx * tx, sy * sy + ty * ty, sx * sy + tx * ty
    square = ((a - b) / 2) ** 2 + c * c
    root = torch.where(square > 0, torch.where(square > 0, square, 1).sqrt(), 0)
    major = (a + b) / 2 + root
    usable = (major > 1e-36) & (major < 1e36)
    level = 0.5 * torch.where(usable, major, 1).log() / math.log(2)
    return torch.where(usable, level, torch.where(major >= 1e36, 1e30, -1e30))


def _face_derivatives(uv: Tensor, uv_da: Tensor) -> Tensor:
    """(ds/dX, ds/dY, dt/dX, dt/dY) on the cube face that a direction hits."""
    x, y, z = uv.abs().unbind(-1)
    axis = torch.where(z > torch.maximum(x, y), 2, torch.where(y > x, 1, 0))
    axes = torch.tensor(_AXES, device=uv.device)[axis]
    s, t, c = uv.gather(-1, axes).unbind(-1)
    face = 2 * axis + (c < 0)
    sign_s, sign_t = (torch.tensor(sign, device=uv.device)[face] for sign in (_SIGN_S, _SIGN_T))
    c = torch.where(c.abs() > 1e-30, c, 1)
    k = 0.5 / c.abs()
    derivatives = uv_da.unflatten(-1, (3, 2)).gather(-2, axes[..., None].expand(*axes.shape, 2))
    ds, dt, dc = derivatives.unbind(-2)
    return torch.cat([(sign_s * k)[..., None] * (ds - (s / c)[..., None] * dc),
                      (sign_t * k)[..., None] * (dt - (t / c)[..., None] * dc)], -1)


def trilinear(look_up: Callable[[Tensor], Tensor], levels: list[Tensor], uv: Tensor,
              uv_da: Tensor | None, bias: Tensor | None, nearest: bool) -> Tensor:
    """
    Blend the bilinear look-ups of all levels.

    :param look_up: from a level (B, faces, h, w, C) to (B, H, W, C).
    """
    level = uv.new_zeros(uv.shape[:3], dtype=torch.float64)
    if uv_da is not None:
        level = footprint_level(uv, uv_da, *levels[0].shape[2:4])
    if bias is not None:
        level = level + bias
    level = torch.where(level > 0, level, 0).clamp(max=len(levels) - 1)
    if nearest:
        level = level.detach().floor()
    out = 0
    for k, texels in enumerate(levels):
        weight = (1 - (level - k).abs()).clamp_min(0)[..., None]
        out = out + weight.to(texels.dtype) * look_up(texels)
    return out
