"""
The whole simulator without ROS: a world that moves, cameras that look at it.

A picture is taken in two halves, as with film. To expose is cheap and happens while the world
steps: the poses inside the exposure are kept. To develop is the work, rendering and the camera
model; it touches nothing but the exposure, so that a thread may do it while the world moves on.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
import math
from pathlib import Path
import time

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.calibrated import stereo_info
from diffphyscam_ros.camera import CameraInfo, PhysicalCamera, presets
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.optics import motion
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import Frame, View
from diffphyscam_ros.scene.world import World

#: What a capture may contain; the camera's description is always there, alone it costs nothing.
OUTPUTS = ('image', 'depth', 'info')


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
    times: list[int] = field(default_factory=list)
    """[ns] of the poses below, one per physics step from start to end."""
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
        """What camera_info has to say about ``depth``: the same K, no distortion."""
        return replace(self.info, distortion_model='plumb_bob', d=(0.0,) * 5)


class Simulator:
    """A world with cameras, on one clock that counts physics steps."""

    def __init__(self, world: World, cameras: dict[str, PhysicalCamera], *, seed: int = 0,
                 command_timeout: float = math.inf, device: str = 'auto',
                 stereo: dict[str, str] | None = None,
                 renderer: Renderer | None = None) -> None:
        """
        Put cameras into a world.

        :param cameras: mount name in the scene file -> camera.
        :param seed: of all noise; same seed, same commands, same bytes.
        :param command_timeout: [s] of simulation time after which a command is stale and the
            vehicle stops.
        :param stereo: right camera -> left camera of a pair; the right one's P has the baseline.
        """
        self.world, self.cameras, self.seed = world, dict(cameras), seed
        self.command_timeout = command_timeout
        self.stereo = dict(stereo or {})
        self.motion_samples = dict.fromkeys(cameras, 1)
        """Renderings per exposure; 1 is a snapshot."""
        for name in cameras:
            world.T_world_optical(name)
            self.info(name)
        self.renderer = renderer or Renderer(world.scene, device=device)
        self.steps = 0
        self._commanded = math.inf
        self._open: list[Exposure] = []
        self._count = dict.fromkeys(cameras, 0)

    @property
    def time(self) -> int:
        """[ns] simulation time; never goes back, not even at :meth:`reset`."""
        return self.time_of(self.steps)

    def time_of(self, steps: int) -> int:
        """[ns] simulation time after ``steps`` physics steps."""
        return round(steps * self.world.time_step * 1e9)

    def command(self, linear: float, angular: float) -> None:
        """Drive at ``linear`` [m/s], ``angular`` [rad/s] for at most ``command_timeout``."""
        self.world.command(linear, angular)
        self._commanded = self.steps

    def step(self) -> list[Exposure]:
        """Advance by one physics step; returns the exposures that ended with it."""
        if (self.steps - self._commanded) * self.world.time_step > self.command_timeout:
            self.world.command(0.0, 0.0)
            self._commanded = math.inf
        self.world.step()
        self.steps += 1
        if not self._open:
            return []
        now = self.time
        self._keep_poses(self._open)
        ended = [e for e in self._open if e.end <= now]
        self._open = [e for e in self._open if e.end > now]
        return ended

    def info(self, camera: str) -> CameraInfo:
        """Return what camera_info has to say about the camera's next image."""
        info, left = self.cameras[camera].camera_info(), self.stereo.get(camera)
        if left is None:
            return info
        if left not in self.cameras:
            raise InputError(f'the left camera {left!r} of {camera!r} does not exist; '
                             f'pass one of {", ".join(self.cameras)}.')
        T_left_right = invert(self.world.T_world_optical(left)) @ self.world.T_world_optical(
            camera)
        return stereo_info(info, self.cameras[left].camera_info(), T_left_right)

    def open_shutter(self, camera: str, *,
                     outputs: Iterable[str] = ('image', 'depth')) -> Exposure:
        """Start an exposure now, with the settings of now; :meth:`step` returns it when done."""
        if camera not in self.cameras:
            raise InputError(f'there is no camera {camera!r}; '
                             f'pass one of {", ".join(self.cameras)}.')
        model, now = self.cameras[camera], self.time
        exposure = Exposure(camera, self._count[camera], now, now + _shutter_time(model), model,
                            self.info(camera), self.motion_samples[camera], tuple(outputs))
        self._count[camera] += 1
        self._keep_poses([exposure])
        self._open.append(exposure)
        return exposure

    def at_rest(self) -> bool:
        """Whether no command is in force and the vehicle stands."""
        linear, angular = self.world.twist_base()
        return not self._open and self._commanded == math.inf and max(
            linear.abs().max().item(), angular.abs().max().item()) < 1e-3

    def skip(self, steps: int) -> None:
        """Let time pass without physics, which changes nothing while everything rests."""
        self.steps += steps

    def ending_steps(self) -> list[int]:
        """Physics steps with which the open exposures end."""
        return [-int(-e.end // (self.world.time_step * 1e9)) for e in self._open]

    def capture(self, camera: str, *, outputs: Iterable[str] = ('image', 'depth')) -> Capture:
        """Expose now, step the world to the end of the exposure, develop."""
        exposure = self.open_shutter(camera, outputs=outputs)
        while exposure in self._open:
            self.step()
        return self.develop(exposure)

    def develop(self, exposure: Exposure) -> Capture:
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
        frame = self._render(exposure, camera_matrix, size)
        durations['render'] = time.perf_counter() - started
        if 'image' in exposure.outputs:
            started = time.perf_counter()
            image = model.sample(frame.radiance, frame.depth, model.settings,
                                 generator=self._generator(exposure))
            durations['camera'] = time.perf_counter() - started
        if 'depth' in exposure.outputs:
            started = time.perf_counter()
            depth = pinhole_depth(frame.depth, camera_matrix, info)
            durations['depth'] = time.perf_counter() - started
        return Capture(exposure.camera, exposure.index, exposure.start, model, info, image,
                       depth, T_world_optical, durations)

    def _render(self, exposure: Exposure, camera_matrix: Tensor,
                size: tuple[int, int]) -> Frame | motion.Exposure:
        """Radiance and depth over the exposure, or at its start."""
        instances, poses = exposure.T_world_instance, exposure.T_world_optical

        def render(T_camera_world: Tensor, T_world_instance: Tensor) -> Frame:
            return self.renderer.render(View(camera_matrix, T_camera_world, size),
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

    def reset(self) -> None:
        """Put the world back to its start; the clock goes on, open exposures are dropped."""
        self._open.clear()
        self._commanded = math.inf
        self.world.reset()

    def change(self, camera: str, **parts: object) -> None:
        """Replace settings, lens or sensor; the next exposure has them, open ones do not."""
        self.cameras[camera] = replace(self.cameras[camera], **parts)

    def close(self) -> None:
        """Free the physics engine."""
        self.world.close()

    def warm_up(self) -> None:
        """Take and forget one picture with each camera: compiles and loads what is needed."""
        for camera, model in self.cameras.items():
            now = self.time
            exposure = Exposure(camera, 0, now, now, model, self.info(camera))
            self._keep_poses([exposure])
            self.develop(exposure)

    def _keep_poses(self, exposures: list[Exposure]) -> None:
        now, transforms = self.time, self.world.transforms()
        for exposure in exposures:
            exposure.times.append(now)
            exposure.T_world_instance.append(transforms)
            exposure.T_world_optical.append(self.world.T_world_optical(exposure.camera))

    def _generator(self, exposure: Exposure) -> torch.Generator:
        """Noise depends on seed, camera and frame number, not on what was skipped."""
        place = list(self.cameras).index(exposure.camera)
        words = np.random.SeedSequence((self.seed, place, exposure.index)).generate_state(2)
        return torch.Generator(self.renderer.device).manual_seed(
            int(words[0]) << 31 | int(words[1]) >> 1)


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


def _between(instant: float, times: Tensor, transforms: list[Tensor]) -> Tensor:
    """Transforms (I, 4, 4) at ``instant``; a physics step turns nothing far, so on the chord."""
    k = int(torch.searchsorted(times, instant).clamp(1, len(times) - 1))
    share = float(((instant - times[k - 1]) / (times[k] - times[k - 1])).clamp(0, 1))
    return torch.lerp(transforms[k - 1], transforms[k], share)


def camera_named(name: str) -> PhysicalCamera:
    """Return the camera preset ``name``, or load the camera file of that path."""
    if name in presets():
        return PhysicalCamera.preset(name)
    if not Path(name).suffix:
        raise InputError(f'there is no camera preset {name!r}; pass one of '
                         f'{", ".join(presets())}, or the path of a camera file.')
    return PhysicalCamera.load(name)


def _shutter_time(model: PhysicalCamera) -> int:
    """[ns] from the first row's start of exposure to the last row's end."""
    readout = float(model.sensor.row_time) * (model.lens.height - 1)
    return round((float(model.settings.exposure_time) + readout) * 1e9)
