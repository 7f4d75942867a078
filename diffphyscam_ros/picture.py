"""
One picture, from the open shutter to pixels: render what it saw, then the camera, then depth.

Developing touches nothing but the exposure and the renderer, so that a thread may do it while
the world moves on.
"""

from dataclasses import dataclass, field, replace
import time

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import CameraInfo, IDENTITY, PhysicalCamera
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.optics import motion
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import Frame, View


@dataclass
class Exposure:
    """The shutter of one camera is, or was, open: the poses it saw."""

    camera: str
    index: int
    """Number of the frame since the start; with the seed it decides the noise."""
    start: int
    """[ns] simulation time when the (first row's) exposure starts: the stamp."""
    end: int
    """[ns] simulation time when the (last row's) exposure ends."""
    model: PhysicalCamera
    """The camera with the settings that were valid when the shutter opened."""
    info: CameraInfo
    """What camera_info says of the image."""
    motion_samples: int = 1
    """Renderings for motion blur and rolling shutter."""
    outputs: tuple[str, ...] = ('image', 'depth')
    """Of image and depth; with neither nothing is rendered, camera_info is always there."""
    times: list[int] = field(default_factory=list)
    """[ns] of the poses below: of the start, and of every physics step to the end where the
    motion in between is wanted."""
    T_world_instance: list[Tensor] = field(default_factory=list)
    """(I, 4, 4) each."""
    T_world_optical: list[Tensor] = field(default_factory=list)
    """(4, 4) each."""


@dataclass(frozen=True)
class Capture:
    """One developed frame."""

    camera: str
    index: int
    stamp: int
    """[ns] start of the exposure, of the first row with a rolling shutter."""
    model: PhysicalCamera
    info: CameraInfo
    """What camera_info has to say about ``image``."""
    image: Tensor | None
    """(H, W, C) uint8 or uint16, as the sensor delivers it."""
    depth: Tensor | None
    """(H, W) [m] along the optical axis, of a pinhole camera with the K of ``info`` and no
    distortion; +inf where nothing is hit."""
    T_world_optical: Tensor
    """(4, 4) at ``stamp``."""
    durations: dict[str, float]
    """[s] spent in each part."""

    @property
    def depth_info(self) -> CameraInfo:
        """What camera_info has to say about ``depth``: the same K, nothing bent or rectified."""
        k = self.info.k
        return replace(self.info, distortion_model='plumb_bob', d=(0.0,) * 5, r=IDENTITY,
                       p=(*k[:3], 0.0, *k[3:6], 0.0, *k[6:], 0.0))


@torch.no_grad()
def develop(renderer: Renderer, exposure: Exposure, generator: torch.Generator) -> Capture:
    """Render what the shutter saw and pass it through the camera; any thread may call it."""
    model, durations = exposure.model, {}
    T_world_optical = exposure.T_world_optical[0]
    info = exposure.info
    image = depth = None
    if not {'image', 'depth'} & set(exposure.outputs):
        return Capture(exposure.camera, exposure.index, exposure.start, model, info, None,
                       None, T_world_optical, durations)
    started = time.perf_counter()
    camera_matrix, size = model.render_view(model.settings)
    frame = _render(renderer, exposure, camera_matrix, size)
    durations['render'] = time.perf_counter() - started
    if 'image' in exposure.outputs:
        started = time.perf_counter()
        image = model.sample(frame.radiance, frame.depth, model.settings,
                             generator=generator)
        durations['camera'] = time.perf_counter() - started
    if 'depth' in exposure.outputs:
        started = time.perf_counter()
        depth = pinhole_depth(frame.depth, camera_matrix, info)
        durations['depth'] = time.perf_counter() - started
    return Capture(exposure.camera, exposure.index, exposure.start, model, info, image,
                   depth, T_world_optical, durations)


def _render(renderer: Renderer, exposure: Exposure, camera_matrix: Tensor,
            size: tuple[int, int]) -> Frame | motion.Exposure:
    """Radiance and depth over the exposure, or at its start."""
    instances, poses = exposure.T_world_instance, exposure.T_world_optical

    def render(T_camera_world: Tensor, T_world_instance: Tensor) -> Frame:
        return renderer.render(View(camera_matrix, T_camera_world, size),
                                    T_world_instance=T_world_instance,
                                    outputs=('radiance', 'depth'))
    if exposure.motion_samples < 2 or len(poses) < 2:
        return render(invert(poses[0]), instances[0])
    times = torch.tensor([t - exposure.start for t in exposure.times],
                         dtype=torch.float64) * 1e-9
    at, now = motion.pose_path(times, torch.stack(poses).double()), [0.0]

    def path(instant: Tensor) -> Tensor:
        now[0] = float(instant)
        return at(instant)

    # Rows of the rendering are read like the image's rows they show (distortion aside).
    sensor, info = exposure.model.sensor, exposure.info
    rows_per_row = info.k[4] / float(camera_matrix[1, 1])
    first_row = info.k[5] - float(camera_matrix[1, 2]) * rows_per_row
    row_time = float(sensor.row_time)
    return motion.expose(
        lambda T: render(T, _between(now[0], times, instances)), path, height=size[0],
        start_time=first_row * row_time, row_time=row_time * rows_per_row,
        exposure_time=float(exposure.model.settings.exposure_time),
        samples=exposure.motion_samples)


def _between(instant: float, times: Tensor, transforms: list[Tensor]) -> Tensor:
    """Transforms (I, 4, 4) at ``instant``; a physics step turns nothing far, so on the chord."""
    k = int(torch.searchsorted(times, instant).clamp(1, len(times) - 1))
    share = float(((instant - times[k - 1]) / (times[k] - times[k - 1])).clamp(0, 1))
    return torch.lerp(transforms[k - 1], transforms[k], share)


def pinhole_depth(depth: Tensor, camera_matrix: Tensor, info: CameraInfo) -> Tensor:
    """
    Depth image of a distortion-free camera with the published K, from the wide rendering.

    Nearest samples: depth must not be mixed across an edge. Both views share the optical centre
    and the axes, so rows and columns are picked separately.

    :param depth: (h, w) [m] of the rendering with ``camera_matrix``.
    """
    K = np.asarray(info.k, np.float64).reshape(3, 3)
    matrix = np.asarray(camera_matrix, np.float64)
    rows, columns = (np.arange(n) for n in (info.height, info.width))
    v = (rows - K[1, 2]) / K[1, 1] * matrix[1, 1] + matrix[1, 2]
    u = (columns - K[0, 2]) / K[0, 0] * matrix[0, 0] + matrix[0, 2]
    index = [torch.from_numpy(np.clip(np.rint(x), 0, n - 1).astype(np.int64)).to(depth.device)
             for x, n in ((v, depth.shape[0]), (u, depth.shape[1]))]
    return depth[index[0]][:, index[1]]
