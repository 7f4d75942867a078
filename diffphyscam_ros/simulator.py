"""
The whole simulator without ROS: a world that moves, cameras that look at it.

A picture is taken in two halves, as with film. To expose is cheap and happens while the world
steps: the poses inside the exposure are kept. To develop is the work, rendering and the camera
model; it touches nothing but the exposure, so that a thread may do it while the world moves on.
"""

from collections.abc import Iterable
from dataclasses import replace
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.camera import CameraInfo, PhysicalCamera, presets
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.picture import Capture, develop, Exposure
from diffphyscam_ros.rectification import Rectification, stereo_infos
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.scene.world import World


class Simulator:
    """A world with cameras, on one clock that counts physics steps."""

    def __init__(self, world: World, cameras: dict[str, PhysicalCamera], *, seed: int = 0,
                 command_timeout: float = math.inf, device: str = 'auto',
                 stereo: dict[str, str] | None = None,
                 rectifications: dict[str, Rectification] | None = None,
                 renderer: Renderer | None = None) -> None:
        """
        Put cameras into a world.

        :param cameras: mount name in the scene file -> camera.
        :param seed: of all noise; same seed, same commands, same bytes.
        :param command_timeout: [s] of simulation time after which a command is stale and the
            vehicle stops.
        :param stereo: right camera -> left camera of a pair; the right one's P has the baseline.
        :param rectifications: R and P that calibrations gave, see :meth:`rectify`.
        """
        self.world, self.cameras, self.seed = world, dict(cameras), seed
        self.command_timeout = command_timeout
        self._pairs = _pairs(stereo or {}, cameras)
        self._rectified: dict[str, tuple[Rectification, Tensor]] = {}
        self.motion_samples = dict.fromkeys(cameras, 1)
        """Renderings per exposure; 1 is a snapshot."""
        for name in cameras:
            world.T_world_optical(name)
        for name, rectification in (rectifications or {}).items():
            self.rectify(name, rectification)
        for name in cameras:
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
        self._keep_poses([e for e in self._open if e.motion_samples > 1])
        ended = [e for e in self._open if e.end <= now]
        self._open = [e for e in self._open if e.end > now]
        return ended

    def info(self, camera: str) -> CameraInfo:
        """
        Return what camera_info has to say about the camera's next image.

        R and P are those of :meth:`rectify` as long as the camera is the one they were measured
        with: K, D and the mount, of both cameras of a pair. Otherwise they are worked out.
        """
        pair = self._pairs.get(camera, (camera,))
        infos = [self.cameras[name].camera_info() for name in pair]
        own = infos[pair.index(camera)]
        given = [(self._rectified[name], info, self.world.mount(name))
                 for name, info in zip(pair, infos, strict=True) if name in self._rectified]
        if camera in self._rectified and any(r.turns for (r, _), _, _ in given) and all(
                r.calibrated == info and torch.equal(mount, now)
                for (r, mount), info, now in given):
            rectification, _ = self._rectified[camera]
            return replace(own, r=rectification.r, p=rectification.p)
        if len(pair) == 1:
            return own
        T_world_left, T_world_right = (self.world.T_world_optical(name) for name in pair)
        return stereo_infos(*infos, invert(T_world_left) @ T_world_right)[pair.index(camera)]

    def rectify(self, camera: str, rectification: Rectification) -> None:
        """Let camera_info say the R and P of a calibration, of the camera and mount of now."""
        self._rectified[camera] = rectification, self.world.mount(camera)

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
        """Render what the shutter saw, pass it through the camera; any one thread may call it."""
        return develop(self.renderer, exposure, self._generator(exposure))

    def reset(self) -> list[Exposure]:
        """Put the world back to its start; the clock goes on. Returns the exposures it cut off."""
        cut_off, self._open = self._open, []
        self._commanded = math.inf
        self.world.reset()
        return cut_off

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
        if not exposures:
            return
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


def _pairs(stereo: dict[str, str], cameras: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Camera -> (left, right) of its pair, from right -> left."""
    cameras, pairs = list(cameras), {}
    for right, left in stereo.items():
        if left not in cameras:
            raise InputError(f'the left camera {left!r} of {right!r} does not exist; '
                             f'pass one of {", ".join(cameras)}.')
        if left == right or {left, right} & pairs.keys():
            raise InputError(f'the pair of {left!r} and {right!r} shares a camera with another; '
                             'pass two cameras of their own for each pair.')
        pairs[left] = pairs[right] = left, right
    return pairs


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
