"""Where the sun's shadow maps lie, as tensor operations that never wait for the device."""

import torch
from torch import Tensor

from diffphyscam_ros.render.shadow import FINEST, MAX_MAPS, NORMAL_OFFSET, RATIO, SIZE


def light_basis(to_sun: Tensor) -> Tensor:
    """Rows: right, up, towards the sun (3, 3)."""
    toward = torch.nn.functional.normalize(to_sun, dim=-1)
    zero, one = torch.zeros_like(toward[0]), torch.ones_like(toward[0])
    helper = torch.where(toward[2].abs() < 0.95, torch.stack([zero, zero, one]),
                         torch.stack([one, zero, zero]))
    right = torch.nn.functional.normalize(torch.linalg.cross(helper, toward), dim=-1)
    return torch.stack([right, torch.linalg.cross(toward, right), toward])


def reach(bounds: Tensor, T_world_instance: Tensor, eye: Tensor) -> Tensor:
    """
    Distance () [m] from the eye to the end of the farthest caster.

    :param bounds: (I, 4) centre and radius of each instance in its own frame.
    """
    linear, shift = T_world_instance[:, :3, :3], T_world_instance[:, :3, 3]
    center = (linear @ bounds[:, :3, None])[..., 0] + shift
    radius = bounds[:, 3] * linear.norm(dim=1).amax(1)
    return ((center - eye).norm(dim=-1) + radius).amax()


def plan_maps(to_sun: Tensor, eye: Tensor, forward: Tensor, farthest: Tensor) -> Tensor:
    """
    World to x, y, depth in [-1, 1] of every map: (MAX_MAPS, 3, 4), as ``shadow.plan_maps``.

    Their number is fixed, for a size that depends on values would wait for the device: maps
    wider than the scene repeat what those inside them know.
    """
    basis = light_basis(to_sun)
    depth_range = torch.exp2((1.5 * farthest).clamp_min(1).log2().ceil())
    maps = []
    for level in range(MAX_MAPS):
        extent = FINEST * RATIO ** level
        step = extent / 4
        middle = ((basis @ (eye + 0.55 * extent * forward)) / step).round() * step
        scale = torch.stack([torch.full_like(depth_range, extent)] * 2 + [-depth_range])
        maps.append(torch.cat([basis / scale[:, None], -(middle / scale)[:, None]], -1))
    return torch.stack(maps)


def texel_matrices(matrices: Tensor, eye: Tensor, depth_bias: float = 0.4) -> Tensor:
    """Affine maps (K, 3, 5) to texels and depth, as ``shadow.texel_matrices``."""
    offset = matrices[:, :, :3] @ eye + matrices[:, :, 3]
    texel = 2 / (SIZE * matrices[:, 0, :3].norm(dim=-1))
    bias = depth_bias * texel * matrices[:, 2, :3].norm(dim=-1)
    place = torch.cat([(offset[:, :2] + 1) * (SIZE / 2), (offset[:, 2] - bias)[:, None]], -1)
    linear = torch.cat([matrices[:, :2, :3] * (SIZE / 2), matrices[:, 2:, :3]], 1)
    normal_offset = (NORMAL_OFFSET * texel)[:, None, None].expand(-1, 3, 1)
    return torch.cat([linear, place[..., None], normal_offset], -1)
