"""Drift watch: is the twin still what the camera delivers?"""

import threading

import numpy as np
import torch

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.geometry import invert
from diffphyscam_ros.recalibrate.alignment import (
    expected,
    Rendered,
    residual_of,
    robust_scale,
    shrink,
)
from diffphyscam_ros.recalibrate.job import Twin
from diffphyscam_ros.recalibrate.observation import Picture, Trajectory
from diffphyscam_ros.recalibrate.options import RecalibrationOptions
from diffphyscam_ros.recalibrate.parameters import at_level
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.world import World

#: Comparisons run at this pixel size: cheap, and blind to noise.
_FACTOR = 4


class Monitor:
    """Keeps the residual after a recalibration and holds later frames against it."""

    def __init__(self) -> None:
        self._renderer: tuple[str, Renderer] | None = None
        self._busy = threading.Lock()
        self._reference: float | None = None
        self._latest: float | None = None

    def forget(self) -> None:
        """Start over: the camera has changed."""
        self._reference = self._latest = None

    def stale(self, limit: float) -> str:
        """Sentence if the residual has grown beyond ``limit`` times its reference, else ''."""
        if self._reference is None or self._latest is None \
                or self._latest <= limit * self._reference:
            return ''
        return (f'residual {self._latest:.4f} DN, {self._reference:.4f} after calibration; '
                'call recalibrate')

    def figures(self) -> dict[str, str]:
        """Return what was measured, for diagnostics."""
        return {name: f'{value:.4f}' for name, value in (
            ('monitor residual [DN]', self._latest),
            ('monitor reference [DN]', self._reference)) if value is not None}

    def compare(self, picture: Picture, poses: Trajectory, camera: PhysicalCamera, twin: Twin,
                options: RecalibrationOptions) -> None:
        """Measure the residual of one frame; the first one is the reference."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            self._latest = self._residual(picture, poses, camera, twin, options)
            self._reference = self._reference or self._latest
        finally:
            self._busy.release()

    def _residual(self, picture: Picture, poses: Trajectory, camera: PhysicalCamera, twin: Twin,
                  options: RecalibrationOptions) -> float:
        if self._renderer is None or self._renderer[0] != twin.scene:
            with World.load(twin.scene) as world:
                self._renderer = (twin.scene, Renderer(world.scene))
        if picture.image.shape[:2] != camera.lens.size:
            return 1.0
        mount = torch.eye(4, dtype=torch.float64) if options.pose_of == 'optical' \
            else twin.T_base_optical
        pose = poses.at(picture.stamp + 0.5e9 * camera.settings.exposure_time) @ mount
        small = at_level(camera, _FACTOR)
        matrix, size = small.render_view()
        instances = twin.instances_at(pose @ invert(twin.T_base_optical))
        frame = self._renderer[1].render(View(matrix, invert(pose), size),
                                         T_world_instance=instances)
        base = expected(small, Rendered(frame.radiance, frame.depth, matrix))
        image = picture.image.astype(np.float32) / np.iinfo(picture.image.dtype).max
        return robust_scale([residual_of(shrink(image, _FACTOR), base)])
