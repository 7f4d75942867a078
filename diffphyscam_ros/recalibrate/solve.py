"""One recalibration from start to finish: choose the source of truth, prepare, fit, judge."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.geometry import invert, log_so3
from diffphyscam_ros.recalibrate.job import Job, Twin
from diffphyscam_ros.recalibrate.observation import (
    check_contents,
    check_shapes,
    choose_views,
    paired,
    Picture,
    Trajectory,
)
from diffphyscam_ros.recalibrate.outcome import Outcome
from diffphyscam_ros.recalibrate.progress import Progress, silent
from diffphyscam_ros.recalibrate.shots import Priors, Render, Shot
from diffphyscam_ros.recalibrate.target_mode import recalibrate_on_target, sees_target
from diffphyscam_ros.recalibrate.twin_mode import recalibrate, TwinOptions
from diffphyscam_ros.render.renderer import Renderer
from diffphyscam_ros.render.view import View
from diffphyscam_ros.scene.world import World

#: [s] over which the camera's motion is measured.
_MOTION_SPAN = 0.04


def solve(job: Job, *, progress: Progress = silent) -> Outcome:
    """Recalibrate; raises InputError with the cause where the frames cannot be used."""
    job = _with_exposure(job)
    options, camera = job.options, job.camera
    check_shapes(job.pictures, camera.lens.size, camera.sensor.channels, options.fewest)
    check_contents(job.pictures)
    if mode_of(job) == 'target':
        return recalibrate_on_target(job, progress=progress)
    if job.poses is None or job.twin is None:
        raise InputError('Twin mode needs to know where the camera was; set '
                         'recalibration.pose_topic to its odometry or pose.')
    pictures = paired(job.pictures, job.poses, options.pairing_tolerance)
    pictures = choose_views(pictures, job.poses, options.frames)
    progress(0.01, 'building the twin')
    T_base_optical = job.twin.T_base_optical
    if options.pose_of == 'optical':
        T_base_optical = torch.eye(4, dtype=torch.float64)
    with World.load(job.twin.scene) as world:
        renderer = Renderer(world.scene)

    def retimed(offset: float) -> tuple[list[Shot], Render]:
        shots = [_shot(p, job.poses, T_base_optical, camera.settings.exposure_time, offset)
                 for p in pictures]
        bases = [s.T_world_optical @ invert(job.twin.T_base_optical) for s in shots]
        return shots, render_twin(renderer, job.twin, bases)
    return recalibrate(*retimed(0.0), camera,
                       TwinOptions(groups=options.groups, time_offset=options.fit_time_offset,
                                   priors=Priors(rotation=options.pose_rotation_sigma,
                                                 translation=options.pose_translation_sigma)),
                       retimed=retimed, progress=progress)


def mode_of(job: Job) -> str:
    """
    Return the mode that ``auto`` stands for: target or twin.

    Without poses there is no twin mode: a board that is named then counts, however seldom seen.
    """
    if job.options.mode != 'auto':
        return job.options.mode
    if not job.options.target:
        return 'twin'
    can_twin = job.poses is not None and job.twin is not None
    return 'twin' if can_twin and not sees_target(job.pictures, job.options.target) else 'target'


def render_twin(renderer: Renderer, twin: Twin, T_world_base: list[Tensor]) -> Render:
    """Render the twin with its vehicle where the real one was in each view."""
    def render(matrix: Tensor, size: tuple[int, int], T_world_optical: Tensor, view: int
               ) -> tuple[Tensor, Tensor]:
        frame = renderer.render(View(matrix, invert(T_world_optical), size),
                                T_world_instance=twin.instances_at(T_world_base[view]),
                                outputs=('radiance', 'depth'))
        return frame.radiance, frame.depth
    return render


def _shot(picture: Picture, poses: Trajectory, T_base_optical: Tensor, exposure_time: float,
          offset: float) -> Shot:
    """Picture with its pose, of a pose clock that is ``offset`` [s] ahead."""
    middle = picture.stamp + 0.5e9 * float(picture.exposure_time or exposure_time) + 1e9 * offset
    span = 0.5e9 * _MOTION_SPAN
    before, after = (poses.at(middle + s) @ T_base_optical for s in (-span, span))
    pose = poses.at(middle) @ T_base_optical
    turn = log_so3(before[:3, :3].mT @ after[:3, :3])
    shift = pose[:3, :3].mT @ (after[:3, 3] - before[:3, 3])
    image = picture.image.astype(np.float32) / np.iinfo(picture.image.dtype).max
    return Shot(image, pose, torch.cat([turn, shift]) / _MOTION_SPAN, picture.exposure_time)


def _with_exposure(job: Job) -> Job:
    """Take the exposure times that the camera tells; what is left to solve is the gain."""
    told = tuple(p for p in job.pictures if p.exposure_time is not None)
    if not told:
        return job
    groups = tuple('gain' if g == 'exposure' else g for g in job.options.groups)
    settings = replace(job.camera.settings, exposure_time=told[-1].exposure_time)
    return replace(job, camera=replace(job.camera, settings=settings), pictures=told,
                   options=replace(job.options, groups=groups))
