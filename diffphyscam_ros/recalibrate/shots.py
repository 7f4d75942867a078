"""What twin mode learns from: pictures with the poses of their cameras, and the twin rendered."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.geometry import exp_so3, from_parts

#: Rendering the twin: (K (3, 3), (height, width), T_world_optical, view number) -> radiance, depth
Render = Callable[[Tensor, tuple[int, int], Tensor, int], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Shot:
    """A picture and where its camera is believed to have been."""

    image: np.ndarray
    """(H, W, C) float32 DN in [0, 1]."""
    T_world_optical: Tensor
    """(4, 4) float64, in the middle of the exposure."""
    motion: Tensor
    """(6,) [rad/s], [m/s]: rotation and translation rate of the optical frame in its own axes."""
    exposure_time: float | None = None
    """[s], where the camera tells; else that of the camera that is fitted."""

    def taken_by(self, camera: PhysicalCamera) -> PhysicalCamera:
        """Return ``camera`` with the exposure of this shot."""
        if self.exposure_time is None:
            return camera
        return replace(camera, settings=replace(camera.settings,
                                                exposure_time=self.exposure_time))

    def later(self, seconds: float) -> Tensor:
        """T_world_optical (4, 4) after ``seconds`` more of the same motion."""
        change = seconds * self.motion
        return self.T_world_optical @ from_parts(exp_so3(change[:3]), change[3:])


#: Shots and renderer as they are if the poses' clock is so much [s] off.
Retimed = Callable[[float], tuple[Sequence[Shot], Render]]


@dataclass(frozen=True)
class Priors:
    """Standard deviations of what belongs to the poses."""

    rotation: float = 5e-4
    """[rad] of each frame's own error."""
    translation: float = 3e-3
    """[m]"""
    mount_rotation: float = 0.02
    """[rad] of the mount, common to all frames."""
    time_offset: float = 0.02
    """[s] between the clocks of camera and poses."""


def straight_on(shots: Sequence[Shot], render: Render) -> Retimed:
    """Poses at other times where nothing is known but each shot's own motion."""
    def retimed(offset: float) -> tuple[list[Shot], Render]:
        return [replace(s, T_world_optical=s.later(offset)) for s in shots], render
    return retimed


def renumbered(render: Render, indices: Sequence[int]) -> Render:
    """Renderer of some of the views: number v is ``indices[v]``."""
    return lambda matrix, size, pose, view: render(matrix, size, pose, indices[view])
