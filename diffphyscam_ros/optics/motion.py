"""
Motion blur and rolling shutter: the mean of linear radiance over the poses of an exposure.

The scene is rendered at a few instants. Between two of them radiance is taken as linear in time,
and each image row averages that over its own exposure in closed form: row r integrates from
start_time + r row_time for exposure_time. A global shutter is row_time 0; an exposure_time of 0
is a snapshot. Gradients reach the trajectory through the renderings.

This module knows no renderer: it calls ``render(T_camera_world)``, which returns an object with
``radiance`` (*batch, H, W, C) and ``depth`` (*batch, H, W) or None, such as a Frame.
"""

from collections.abc import Callable
from dataclasses import dataclass
import math

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import interpolate_pose, invert


@dataclass(frozen=True)
class Exposure:
    """What one exposure sees."""

    radiance: Tensor
    """(*batch, H, W, C) linear, the mean over each row's exposure."""
    depth: Tensor | None
    """(*batch, H, W) [m] of the rendering nearest to the middle of each row's exposure."""


def pose_path(times: Tensor, T_world_camera: Tensor) -> Callable[[Tensor], Tensor]:
    """
    Trajectory through poses (n, 4, 4) at increasing times (n,) [s], as T_camera_world of a time.

    Rotations follow the shortest arc, positions the line; beyond the ends the pose stays.
    Differentiable in the poses and times.
    """
    if T_world_camera.shape[-2:] != (4, 4) or len(T_world_camera) != len(times):
        raise InputError(f'{len(times)} times and poses of shape {tuple(T_world_camera.shape)} '
                         'do not match; pass one (4, 4) pose for each time.')
    if len(times) < 2 or not bool((times.diff() > 0).all()):
        raise InputError('times do not increase; pass at least two instants in order [s].')

    def at(time: Tensor) -> Tensor:
        time = torch.as_tensor(time, dtype=times.dtype, device=times.device)
        k = int((torch.searchsorted(times.detach(), time.detach()) - 1).clamp(0, len(times) - 2))
        share = ((time - times[k]) / (times[k + 1] - times[k])).clamp(0, 1)
        return invert(interpolate_pose(T_world_camera[k], T_world_camera[k + 1], share))

    return at


def image_motion(depth: Tensor, camera_matrix: Tensor, T_camera_start: Tensor,
                 T_camera_end: Tensor, *, quantile: float = 0.99) -> float:
    """
    Motion [px] of the image of a static scene between two poses; no gradient.

    :param depth: (H, W) [m] seen from the start; +inf moves with the rotation only.
    :param camera_matrix: (3, 3) K [px].
    :param T_camera_start: (4, 4) T_camera_world at the start, ``T_camera_end`` at the end.
    :param quantile: the share of the pixels that move no further than the answer.
    """
    with torch.no_grad():
        height, width = depth.shape
        step = max(1, min(height, width) // 48)
        v, u = torch.meshgrid(torch.arange(0, height, step, device=depth.device),
                              torch.arange(0, width, step, device=depth.device), indexing='ij')
        pixel = torch.stack([u, v, torch.ones_like(u)], -1).to(depth)
        ray = pixel @ torch.linalg.inv(camera_matrix.to(depth)).mT
        # homogeneous points, w = 1 / depth: infinity is no special case
        point = torch.cat([ray, 1 / depth[::step, ::step, None]], -1)
        moved = point @ (T_camera_end @ invert(T_camera_start)).to(depth).mT[:, :3]
        moved = moved @ camera_matrix.to(depth).mT
        ahead = moved[..., 2] > 1e-6
        shift = (moved[..., :2] / moved[..., 2:].clamp_min(1e-6) - pixel[..., :2]).norm(dim=-1)
        shift = shift[ahead]
        return float(shift.quantile(quantile)) if shift.numel() else 0.0


def choose_samples(motion: float, *, step: float = 1.0, most: int = 64) -> int:
    """Renderings so that the image moves at most ``step`` px from one to the next, 2 to most."""
    if not motion >= 0 or not step > 0:
        raise InputError(f'motion is {motion} px and step {step} px; pass numbers, motion of at '
                         'least 0 and step greater than 0.')
    return min(most, max(2, math.ceil(min(motion / step, most)) + 1))


def row_weights(instants: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """
    Weights (rows, n) that average a piecewise linear signal over an interval per row.

    :param instants: (n,) increasing times of the signal's knots [s], n >= 2.
    :param start: (rows,) [s] and ``end`` (rows,) within the knots; an empty interval takes the
        value at its instant.
    """
    gap = instants.diff()
    left, right = instants[:-1], instants[1:]
    a = torch.minimum(torch.maximum(start[:, None], left), right)
    b = torch.minimum(torch.maximum(end[:, None], left), right)
    span = (end - start)[:, None]
    inside = (start[:, None] >= left) & (start[:, None] < right)
    inside[:, -1] |= start >= right[-1]
    share = torch.where(span > 0, (b - a) / torch.where(span > 0, span, 1), inside.to(a))
    later = share * ((a + b) / 2 - left) / gap
    zero = torch.zeros_like(start)[:, None]
    return torch.cat([share - later, zero], 1) + torch.cat([zero, later], 1)


def expose(render: Callable, trajectory: Callable[[Tensor], Tensor], *, height: int,
           start_time: float, exposure_time: float, row_time: float = 0.0,
           samples: int = 8, dtype=torch.float64) -> Exposure:
    """
    Integrate an exposure along a trajectory.

    :param render: T_camera_world (4, 4) -> object with ``radiance`` and ``depth``.
    :param trajectory: time [s] -> T_camera_world (4, 4), e.g. from ``pose_path``.
    :param height: rows of the image.
    :param start_time: [s] the first row opens.
    :param exposure_time: [s] each row stays open; 0 is a snapshot.
    :param row_time: [s] from one row's opening to the next; 0 is a global shutter.
    :param samples: renderings, at least 2; see ``choose_samples``.
    :param dtype: of the times given to ``trajectory``.
    """
    for name, value in (('exposure_time', exposure_time), ('row_time', row_time)):
        if not (value >= 0 and math.isfinite(value)):
            raise InputError(f'{name} is {value}; pass a finite time of at least 0 s.')
    if samples < 1 or height < 1:
        raise InputError(f'samples is {samples} and height {height}; pass at least 1 of each.')
    duration = exposure_time + (height - 1) * row_time
    if duration == 0 or samples == 1:
        middle = torch.tensor(start_time + duration / 2, dtype=dtype)
        frame = render(trajectory(middle))
        return Exposure(frame.radiance, frame.depth)
    # from here on times count from start_time: clock times lose digits
    instants = torch.linspace(0, duration, samples, dtype=torch.float64)
    start = torch.arange(height, dtype=torch.float64) * row_time
    weights = row_weights(instants, start, (start + exposure_time).clamp_max(duration))
    nearest = (start[:, None] + exposure_time / 2 - instants).abs().argmin(1)
    radiance = depth = None
    for n in range(samples):
        if not bool((weights[:, n] > 0).any()):
            continue
        frame = render(trajectory((start_time + instants[n]).to(dtype)))
        if frame.radiance.shape[-3] != height:
            raise InputError(f'render returned {frame.radiance.shape[-3]} rows; pass '
                             f'height={frame.radiance.shape[-3]}.')
        share = weights[:, n].to(frame.radiance)[:, None, None] * frame.radiance
        radiance = share if radiance is None else radiance + share
        if frame.depth is not None:
            chosen = (nearest == n).to(frame.depth.device)[:, None]
            depth = frame.depth if depth is None else torch.where(chosen, frame.depth, depth)
    return Exposure(radiance, depth)
