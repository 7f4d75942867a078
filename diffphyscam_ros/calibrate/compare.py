"""
Camera files against a recording: the same frames re-rendered by each camera, and by a pinhole.

A camera file says all of the camera and nothing of the scene: the pose of the board in each
frame, its gain and its smooth light are fitted, the camera's own numbers stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
import json
from pathlib import Path

import numpy as np
import torch

from diffphyscam_ros.calibrate import geometric, held_out, joint, photometric, shape, views
from diffphyscam_ros.calibrate.options import Options
from diffphyscam_ros.calibrate.photometric import Frame, LOCAL, Model
from diffphyscam_ros.calibrate.run import Progress, silent
from diffphyscam_ros.calibrate.target import format_target, parse_target
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.bags import Recording
from diffphyscam_ros.optics.intrinsics import floats
from diffphyscam_ros.sensor.response import curve

PINHOLE = 'pinhole'


@dataclass
class Shot:
    """One frame and what each camera makes of it."""

    name: str
    measured: np.ndarray
    """(h, w) DN in [0, 1] of the board's surroundings."""
    mask: np.ndarray
    """(h, w) where the board is known."""
    rendered: dict[str, np.ndarray] = field(default_factory=dict)
    """By camera; each on the window of ``measured``."""

    def psnr(self, camera: str) -> float:
        """[dB] over the board."""
        return joint.psnr(self.rendered[camera], self.measured, self.mask)


@dataclass
class Comparison:
    """Every shot, by every camera."""

    cameras: list[str]
    """``pinhole`` first."""
    shots: list[Shot]
    target: str
    reprojection: dict[str, float]
    """[px] rms of the corners, each pose fitted."""

    def mean(self, camera: str) -> float:
        """[dB] mean over the shots."""
        return float(np.mean([s.psnr(camera) for s in self.shots]))

    def summary(self) -> dict:
        """Return plain types for compare.json."""
        return {'target': self.target, 'frames': [s.name for s in self.shots],
                'psnr_db': {c: {'mean': self.mean(c), 'worst': min(s.psnr(c) for s in self.shots),
                                'per_frame': [s.psnr(c) for s in self.shots]}
                            for c in self.cameras},
                'rms_reprojection_px': self.reprojection}


def compare(recording: Recording, cameras: dict[str, PhysicalCamera], options: Options, *,
            count: int = 8, boards: dict[str, np.ndarray] | None = None,
            progress: Progress = silent) -> Comparison:
    """
    Re-render ``count`` frames that differ most with every camera.

    :param boards: the board's shape by camera, where its calibration measured it.
    """
    topic = recording.image_topic(options.image_topic)
    seen = views.survey(recording, topic, parse_target(options.target),
                        progress=lambda items, n: progress('looking for the target', items, n))
    for name, camera in cameras.items():
        if camera.lens.size != seen.size:
            raise InputError(f'camera {name} makes images of {camera.lens.width}x'
                             f'{camera.lens.height} px, the recording has {seen.size[1]}x'
                             f'{seen.size[0]}; pass the camera of this recording.')
    chosen = views.choose(views.distinct(seen.sightings), count)
    pictures = {i: views.fit_channel(p).astype(np.float32) / np.float32(p.full_scale)
                for i, p in progress('reading frames', views.fetch(
                    recording, topic, [s.index for s in chosen], seen.bits), len(chosen))}
    result = Comparison([PINHOLE, *cameras], [], format_target(seen.target), {})
    first = next(iter(cameras))
    shots: dict[int, Shot] = {}
    for name, camera in cameras.items():
        model, shared = as_model(camera, options)
        fit = joint.Fit(replace(model, held=True), shared, np.zeros((0, len(LOCAL))),
                        np.zeros((len(shared),) * 2), 0.0, 0.01, 1.0)
        intrinsics = shared[:model.names.index('a2')]
        board = (boards or {}).get(name, shape.FLAT)
        frames, poses, errors = [], [], []
        for sighting in chosen:
            view = geometric.make_view(sighting.name, sighting.index, seen.target, sighting.found)
            view = replace(view, points=geometric.on_board(view, board))
            pose = geometric.fit_pose(view, intrinsics, model.distortion)
            errors.append(view.corners - geometric.project(view.points, pose, intrinsics,
                                                           model.distortion)[0])
            frame = photometric.cut(
                sighting.name, sighting.index, pictures[sighting.index], seen.target, pose,
                intrinsics, model.distortion, inverted=sighting.found.inverted, board=board)
            if frame is not None:
                frames.append(frame)
                poses.append(pose)
        if not frames:
            raise InputError(f'the board is too small in every frame for camera {name}; record '
                             'it nearer.')
        result.reprojection[name] = float(np.sqrt((np.concatenate(errors) ** 2).sum(1).mean()))
        base = held_out.baseline(model.distortion, intrinsics, frames, poses)
        for frame, pose in progress(f're-rendering by {name}', zip(frames, poses, strict=True),
                                    len(frames)):
            local = joint.fit_frame(fit, frame, photometric.start_local(model, frame, pose,
                                                                        shared), iterations=12)
            measured, mask = _whole(frame, frame.dn), _whole(frame, frame.mask)
            shot = shots.setdefault(frame.index, Shot(frame.name, measured, mask))
            shot.mask = np.minimum(shot.mask, mask)
            shot.rendered[name] = _whole(frame, joint.rendered(model, frame, shared, local))
            if name == first:
                shot.rendered[PINHOLE] = _whole(frame, base(frame, pose))
    result.shots = [s for s in shots.values() if len(s.rendered) == len(result.cameras)]
    return result


def _whole(frame: Frame, window) -> np.ndarray:
    """Put a window back into the image (H, W), which every camera shares."""
    window = np.asarray(window)
    (top, left), (height, width) = frame.origin, frame.size
    out = np.zeros(frame.size, np.float32)
    rows = slice(max(top, 0), min(top + window.shape[0], height))
    columns = slice(max(left, 0), min(left + window.shape[1], width))
    out[rows, columns] = window[rows.start - top:rows.stop - top,
                                columns.start - left:columns.stop - left]
    return out


def as_model(camera: PhysicalCamera, options: Options) -> tuple[Model, np.ndarray]:
    """Express a camera in the terms of the fit on pixels: a model, and its vector."""
    lens, sensor, settings = camera.lens, camera.sensor, camera.settings
    if sensor.response in ('gamma', 'sigmoid'):
        raise InputError(f'the {sensor.response} response has no level of its own to compare at; '
                         'pass a camera with linear, power, srgb or table response.')
    pitch, focal = float(sensor.pixel_pitch), float(torch.as_tensor(settings.focal_length))
    table = curve(torch.linspace(0, 1, photometric.TABLE, dtype=torch.float64), sensor.response,
                  exponent=torch.as_tensor(sensor.response_exponent, dtype=torch.float64),
                  table=torch.tensor(floats(sensor.response_table), dtype=torch.float64))
    model = Model(lens.distortion_model, (), white=options.white, black=options.black,
                  pixel_pitch=pitch, table=tuple(table.tolist()),
                  natural=float(lens.vignetting_gain))
    info = camera.camera_info()
    intrinsics = np.array([info.k[0], info.k[4], info.k[2], info.k[5], *info.d])
    shared = photometric.start_vector(model, intrinsics)
    a2, a4, a6 = floats(lens.vignetting_polynomial)
    strength = float(lens.defocus_gain) * focal ** 2 / (float(settings.f_number) * pitch)
    values = {'a2': a2, 'a4': a4, 'a6': a6,
              'residual_blur': max(float(lens.residual_blur), 0.02), 'defocus': strength,
              'inverse_focus': 1 / (float(settings.focus_distance) - info.k[0] * pitch),
              'black_level': float(np.mean(floats(sensor.black_level)))}
    for name, value in values.items():
        shared[model.names.index(name)] = value
    return model, shared


def read_cameras(paths: Sequence[Path]) -> tuple[dict[str, PhysicalCamera], dict[str, np.ndarray]]:
    """Load camera files, and the board's shape that ``result.json`` beside them may hold."""
    cameras, boards = {}, {}
    for path in map(Path, paths):
        name = path.stem if path.stem != 'camera' else path.resolve().parent.name
        while name in cameras or name == PINHOLE:
            name += "'"
        cameras[name] = PhysicalCamera.load(path)
        try:
            found = json.loads((path.parent / 'result.json').read_text())['board_shape_m']
            boards[name] = np.array([float(found[t]) for t in shape.TERMS])
        except (OSError, ValueError, KeyError, TypeError):
            boards[name] = shape.FLAT
    return cameras, boards
