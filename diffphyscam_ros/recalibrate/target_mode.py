"""
Target mode: the offline calibration of ``diffphyscam calibrate``, run on live frames of a board.

Old and new camera are compared on frames that taught neither: each frame's pose is refitted to
its corners under both, and the reprojection errors compared frame by frame.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
import tempfile

import cv2
import numpy as np

from diffphyscam_ros.calibrate import geometric, judge, output
from diffphyscam_ros.calibrate.detect import detect, Detection, settle, why_not
from diffphyscam_ros.calibrate.run import calibrate, Options, Result
from diffphyscam_ros.calibrate.target import parse_target, Target
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.io.files import atomic_path, write_text
from diffphyscam_ros.optics.distortion import COEFFICIENTS
from diffphyscam_ros.optics.intrinsics import floats
from diffphyscam_ros.recalibrate.job import Job
from diffphyscam_ros.recalibrate.observation import Picture
from diffphyscam_ros.recalibrate.outcome import Change, LEAST_GAIN, Outcome
from diffphyscam_ros.recalibrate.progress import Progress

#: Frames looked at to decide whether a board is in view.
_GLANCES = 6
#: Frames with the board that a fit and its judgement need.
FEWEST = 8
_STAGES = {'looking for the target': (0.02, 0.3), 'reading frames': (0.3, 0.35),
           'fitting the pixels': (0.35, 0.9)}


def sees_target(pictures: Sequence[Picture], target: str) -> bool:
    """Whether most of a few frames show the board."""
    board = parse_target(target)
    glances = pictures[::max(len(pictures) // _GLANCES, 1)]
    return sum(_find(p, board) is not None for p in glances) > len(glances) // 2


def recalibrate_on_target(job: Job, *, progress: Progress) -> Outcome:
    """Calibrate from the pictures of a job, which see the board of its options."""
    old, board = job.camera, parse_target(job.options.target)
    progress(0.01, 'looking for the board')
    taught, views = _sightings(job.pictures, board)
    with tempfile.TemporaryDirectory(prefix='diffphyscam_target_') as folder:
        exposures = _write_frames(Path(folder), taught)
        with Recording(folder) as recording:
            result = calibrate(recording, Options(
                target=job.options.target, pixel_pitch=float(old.sensor.pixel_pitch),
                model=_distortion_model(old), max_views=max(len(taught), 3),
                exposure_file=exposures),
                progress=_stages(progress))
    new = _merge(old, output.camera(result), result)
    progress(0.92, 'judging on held-out frames')
    before, after = (np.array([_error(v, c) for v in views]) for c in (old, new))
    gain = before - after
    sure = bool(gain.mean() > 2 * gain.std(ddof=1) / np.sqrt(len(gain))
                and gain.mean() > LEAST_GAIN * before.mean())
    return Outcome(mode='target', camera=new, frames=len(taught), held_out=len(views),
                   loss_before=float(before.mean()), loss_after=float(after.mean()),
                   significant=sure, psnr_before=np.nan,
                   psnr_after=float(result.quality.get('full', np.nan)), explained=1.0,
                   changes=_changes(old, new, result))


def _sightings(pictures: Sequence[Picture], board: Target
               ) -> tuple[list[Picture], list[geometric.View]]:
    """Frames to learn from, and the board's corners in those that are held out."""
    board = settle(board, [_gray(p) for p in pictures[::max(len(pictures) // 4, 1)]])
    seen = [(p, found) for p in pictures if (found := _find(p, board)) is not None]
    if len(seen) < FEWEST:
        raise InputError(f'The board is in {len(seen)} of {len(pictures)} frames, {FEWEST} are '
                         f'needed: {why_not(_gray(pictures[len(pictures) // 2]), board)}.')
    held_out = [geometric.make_view(str(p.stamp), i, board, found)
                for i, (p, found) in enumerate(seen) if i % 4 == 2]
    return [p for i, (p, _) in enumerate(seen) if i % 4 != 2], held_out


def _distortion_model(camera: PhysicalCamera) -> str | None:
    """Keep the model that the camera speaks; an ideal lens has none to keep."""
    return camera.lens.distortion_model if len(floats(camera.lens.distortion_coefficients)) \
        else None


def _error(view: geometric.View, camera: PhysicalCamera) -> float:
    """Reprojection error [px] of a view whose pose is free."""
    lens = camera.lens
    numbers = np.array([lens.fx, lens.fy, lens.cx, lens.cy,
                        *floats(lens.distortion_coefficients)], float)
    pose = geometric.fit_pose(view, numbers, lens.distortion_model)
    found = geometric.project(view.points, pose, numbers, lens.distortion_model)[0]
    return float(np.sqrt(((view.corners - found) ** 2).sum(1).mean()))


def _merge(old: PhysicalCamera, fitted: PhysicalCamera, result: Result) -> PhysicalCamera:
    """Take over what was fitted; what a board cannot tell stays as it was."""
    lens = replace(fitted.lens, psf=old.lens.psf, oversampling=old.lens.oversampling)
    if not result.defocus_seen:
        lens = replace(lens, defocus_gain=old.lens.defocus_gain)
        settings = replace(fitted.settings, f_number=old.settings.f_number,
                           focus_distance=old.settings.focus_distance)
    else:
        settings = fitted.settings
    sensor = fitted.sensor if result.fit is not None else old.sensor
    sensor = replace(sensor, noise=old.sensor.noise, serial_number=old.sensor.serial_number,
                     bits=old.sensor.bits, color_filter=old.sensor.color_filter)
    return replace(old, lens=lens, sensor=sensor, settings=settings)


def _changes(old: PhysicalCamera, new: PhysicalCamera, result: Result) -> tuple[Change, ...]:
    before = {'fx': old.lens.fx, 'fy': old.lens.fy, 'cx': old.lens.cx, 'cy': old.lens.cy,
              'residual_blur': old.lens.residual_blur,
              'black_level': np.mean(old.sensor.black_level),
              'read_noise': np.mean(old.sensor.read_noise)}
    before |= dict(zip(COEFFICIENTS[old.lens.distortion_model],
                       floats(old.lens.distortion_coefficients), strict=True))
    before |= dict(zip(('vignetting_a2', 'vignetting_a4', 'vignetting_a6'),
                       floats(old.lens.vignetting_polynomial), strict=True))
    before |= {name: value for name, value, known in (
        ('response_exponent', old.sensor.response_exponent, old.sensor.response == 'power'),
        ('focus_distance', old.settings.focus_distance, old.lens.defocus_gain > 0),
        ('f_number', old.settings.f_number, old.lens.defocus_gain > 0)) if known}
    return tuple(Change(p.name, p.unit, float(before.get(p.name, np.nan)), float(p.value),
                        float(p.sigma), p.verdict)
                 for p in judge.parameters(result) if np.ndim(p.value) == 0)


def _write_frames(folder: Path, pictures: Sequence[Picture]) -> str | None:
    """Write the frames as a recording; returns the file of their exposures, if they are told."""
    exposures, index = [], 0
    for picture in pictures:
        for image in (picture.image, picture.follower):
            if image is None:
                continue
            pixels = image[..., ::-1] if image.shape[2] == 3 else image
            with atomic_path(folder / f'{index:05d}.png') as path:
                cv2.imwrite(str(path), np.ascontiguousarray(pixels),
                            (cv2.IMWRITE_PNG_COMPRESSION, 1))
            if picture.exposure_time is not None:
                exposures.append(f'{index}, {picture.exposure_time!r}')
            index += 1
    if not exposures:
        return None
    write_text(folder / 'exposures.csv', '\n'.join(exposures))
    return str(folder / 'exposures.csv')


def _find(picture: Picture, board: Target) -> Detection | None:
    gray = _gray(picture)
    return detect(gray, board) or detect(gray, board, thorough=True)


def _gray(picture: Picture) -> np.ndarray:
    image = picture.image
    if image.dtype != np.uint8:
        image = (image >> 8).astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.shape[2] == 3 else image[..., 0]


def _stages(progress: Progress) -> Callable[[str, Iterable, int], Iterator]:
    """Turn the calibration's progress bars into shares of the whole."""
    def bar(name: str, items: Iterable, count: int) -> Iterator:
        start, stop = _STAGES.get(name, (0.9, 0.92))
        for index, item in enumerate(items):
            progress(start + (stop - start) * min(index / max(count, 1), 1.0), name)
            yield item
    return bar
