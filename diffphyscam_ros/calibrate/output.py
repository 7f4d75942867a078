"""Write a calibration: camera_info.yaml, camera.yaml, result.json, pcalib.txt, vignette.png."""

from dataclasses import fields, is_dataclass, replace
import json
from pathlib import Path

import cv2
import numpy as np
import torch

from diffphyscam_ros.calibrate import judge
from diffphyscam_ros.calibrate.photometric import BENDS
from diffphyscam_ros.calibrate.run import response, Result
from diffphyscam_ros.calibrate.target import format_target
from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.io import calibration
from diffphyscam_ros.io.files import atomic_path, write_text
from diffphyscam_ros.optics.intrinsics import Lens
from diffphyscam_ros.sensor.exposure import electrons_per_radiance
from diffphyscam_ros.sensor.parameters import Sensor, Settings


def write_all(result: Result, folder: str | Path) -> list[Path]:
    """Write every machine-readable output; each file is whole or absent."""
    folder = Path(folder)
    info = camera_info(result)
    calibration.write(folder / 'camera_info.yaml', info, camera_name=info.camera_name)
    camera(result).save(folder / 'camera.yaml')
    write_text(folder / 'result.json', json.dumps(summary(result), indent=2) + '\n')
    written = ['camera_info.yaml', 'camera.yaml', 'result.json']
    if result.fit is not None:
        write_text(folder / 'pcalib.txt', ' '.join(f'{v:.6f}' for v in inverse_response(result))
                   + '\n')
        with atomic_path(folder / 'vignette.png') as path:
            image = vignette(result)
            cv2.imwrite(str(path), (image / image.max() * 65535 + 0.5).astype(np.uint16))
        written += ['pcalib.txt', 'vignette.png']
    return [folder / name for name in written]


def camera_info(result: Result) -> calibration.CalibrationFile:
    """Return what a ROS driver loads."""
    height, width = result.geometry.size
    values, _ = judge.intrinsics(result)
    fx, fy, cx, cy = values[:4].tolist()
    return _rounded(calibration.CalibrationFile(
        width=width, height=height, distortion_model=result.geometry.model,
        d=tuple(values[4:].tolist()), k=(fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0),
        camera_name=result.options.camera_name))


def camera(result: Result) -> PhysicalCamera:
    """Return the fitted camera; what was not observable keeps its default or is off."""
    info, pitch = camera_info(result), result.options.pixel_pitch
    focal = info.k[0] * pitch
    lens = Lens(width=info.width, height=info.height, fx=info.k[0], fy=info.k[4], cx=info.k[2],
                cy=info.k[5], distortion_model=info.distortion_model,
                distortion_coefficients=info.d, focal_length=focal, vignetting_gain=0.0,
                defocus_gain=0.0)
    colour = 'rgb' if result.survey.channels == 3 else 'mono'
    sensor = Sensor(pixel_pitch=pitch, color_filter=result.survey.mosaic or colour,
                    bits=result.survey.bits, dsnu=0.0, prnu=0.0)
    settings = Settings(focal_length=focal)
    fit = result.fit
    if fit is None:
        return _rounded(PhysicalCamera(lens, sensor, settings))
    natural, terms = judge.vignetting(result)
    lens = replace(lens, residual_blur=fit.value('residual_blur'), vignetting_gain=natural,
                   vignetting_polynomial=terms)
    if result.defocus_seen:
        focus, number, _ = judge.thin_lens(result)
        lens = replace(lens, defocus_gain=1.0)
        settings = replace(settings, f_number=number, focus_distance=focus)
    sensor = replace(sensor, **_response_fields(result))
    if result.noise is not None:
        gain = result.noise.response_gain
        sensor = replace(sensor, response_gain=gain, read_noise=result.noise.read_noise,
                         saturation_capacity=max(20000.0, 1.2 / gain))
    efficiency = np.array(sensor.quantum_efficiency)[1] * np.array(result.channel_gains)
    if len(efficiency) == 3:
        sensor = replace(sensor, quantum_efficiency=tuple(float(v) for v in efficiency))
    return _rounded(PhysicalCamera(lens, _scale_light(result, sensor, settings), settings))


def summary(result: Result) -> dict:
    """Build result.json as plain types."""
    values, _ = judge.intrinsics(result)
    info = camera_info(result)
    parameters = {p.name: {'value': _plain(p.value), 'sigma': _plain(p.sigma), 'unit': p.unit,
                           'verdict': p.verdict, **({'advice': p.advice} if p.advice else {})}
                  for p in judge.parameters(result)}
    sigmas = {p.name: p.sigma for p in judge.parameters(result)}
    names = ['fx', None, 'cx', None, 'fy', 'cy', None, None, None]
    parameters['camera_matrix'] = {
        'value': list(info.k), 'sigma': [float(sigmas[n]) if n else 0.0 for n in names],
        'unit': 'px', 'verdict': _worst(parameters, ('fx', 'fy', 'cx', 'cy'))}
    parameters['distortion_coefficients'] = {
        'value': list(info.d), 'unit': '1',
        'sigma': [float(sigmas[n]) for n in judge.COEFFICIENTS[info.distortion_model]],
        'verdict': _worst(parameters, result.geometry.free)}
    geometry = result.geometry
    out = {
        'complete': not result.interrupted,
        'target': format_target(result.target),
        'image_size': {'width': info.width, 'height': info.height},
        'distortion_model': info.distortion_model,
        'camera_matrix': list(info.k),
        'distortion_coefficients': list(info.d),
        'rms_reprojection_px': geometry.rms,
        'held_out_rms_px': result.model_errors,
        'board_shape_m': dict(zip(judge.geometric.shape.TERMS, geometry.board.tolist(),
                                  strict=True)),
        'views': {'frames_in_recording': result.survey.frames,
                  'searched': result.survey.looked_at, 'found': len(result.survey.sightings),
                  'used': len(result.kept),
                  'rejected': {v.name: round(e, 4) for v, e in result.rejected},
                  'fitted_on_pixels': len(result.frames),
                  'held_out': len(result.held_out)},
        'parameters': parameters,
        'held_out_psnr_db': result.quality,
        'channel_gains': list(result.channel_gains),
        'warnings': result.warnings,
    }
    if result.fit is not None:
        out['curves'] = curves(result)
    return _rounded(out)


def curves(result: Result) -> dict:
    """Response, vignetting, noise and blur as sampled curves."""
    y = np.linspace(0, 1, 65)
    radius = np.linspace(0, 1, 33)
    light = judge.along_radius(result, vignette(result), radius)
    out = {
        'response': {'signal': y.tolist(), 'dn': response(result.fit, y).tolist()},
        'vignetting': {'radius_over_half_diagonal': radius.tolist(),
                       'relative_illumination': light.tolist()},
        'blur': {'distance_m': result.blurs[:, 0].tolist(),
                 'sigma_px': result.blurs[:, 1].tolist()},
    }
    if result.noise is not None:
        out['noise_variance'] = {'dn': result.noise.curve[:, 0].tolist(),
                                 'variance': result.noise.curve[:, 1].tolist(),
                                 'source': result.noise.source}
    if result.defocus_seen:
        near, far = result.blurs[:, 0].min(), result.blurs[:, 0].max()
        distance = np.geomspace(0.8 * near, 1.25 * far, 33)
        out['circle_of_confusion'] = {'distance_m': distance.tolist(),
                                      'diameter_px': circle(result, distance).tolist(),
                                      'round': 'before distortion' if
                                      result.fit.model.before_distortion else 'in the image'}
    return out


def circle(result: Result, distance: np.ndarray) -> np.ndarray:
    """Diameter of the fitted circle of confusion [px] at distances [m]."""
    fit = result.fit
    focal = fit.value('fx') * result.options.pixel_pitch
    focus = focal + 1 / fit.value('inverse_focus')
    return np.abs(fit.value('defocus') * fit.value('inverse_focus') * (1 - focus / distance))


def inverse_response(result: Result) -> np.ndarray:
    """(256,) irradiance of each 8-bit value, 0 to 255, as in DSO's pcalib.txt."""
    grid = np.linspace(0, 1, 8193)
    y = np.interp(np.arange(256) / 255, response(result.fit, grid), grid)
    return np.maximum.accumulate(y) * 255


def vignette(result: Result) -> np.ndarray:
    """(H, W) relative illumination, as far as it was seen."""
    return judge.illumination(result, *judge.vignetting(result))


def _response_fields(result: Result) -> dict:
    fit = result.fit
    exponent = float(np.exp(fit.value('log_exponent')))
    out = {'black_level': fit.value('black_level')}
    if fit.model.table:
        return out | {'response': 'srgb'}
    if set(BENDS) & set(fit.model.free):
        table = response(fit, np.linspace(0, 1, 257))
        return out | {'response': 'table', 'response_table': tuple(
            float(v) for v in np.maximum.accumulate(table))}
    if abs(exponent - 1) < max(0.002, fit.sigma('log_exponent')):
        return out | {'response': 'linear'}
    return out | {'response': 'power', 'response_exponent': exponent}


def _scale_light(result: Result, sensor: Sensor, settings: Settings) -> Sensor:
    """Set the light level so that white paper gives the signal of the median frame."""
    signal = float(np.median(np.exp(result.fit.locals[:, 6])))
    per_radiance = electrons_per_radiance(sensor, settings, torch.zeros((), dtype=torch.float64))
    collected = float(per_radiance.sum() if sensor.color_filter == 'mono'
                      else torch.atleast_1d(per_radiance)[min(1, per_radiance.numel() - 1)])
    wanted = signal / float(sensor.response_gain)
    return replace(sensor, scene_illuminance=float(sensor.scene_illuminance) * wanted / collected)


def _rounded(value):
    """
    Round every float to eight digits: from the twelfth on they depend on where arrays lay in
    memory, and the fewer are kept, the seldomer one of those decides how the last is rounded.

    Vectorised sums begin where an array is aligned, so that two runs differ in the last bits.
    """
    if isinstance(value, float):
        return float(f'{value:.8g}')
    if isinstance(value, dict):
        return {k: _rounded(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_rounded(v) for v in value)
    if is_dataclass(value):
        return replace(value, **{f.name: _rounded(getattr(value, f.name))
                                 for f in fields(value)})
    return value


def _plain(value):
    return [float(v) for v in value] if isinstance(value, (tuple, list)) else float(value)


def _worst(parameters: dict, names) -> str:
    order = [judge.DETERMINED, judge.WEAK, judge.HIDDEN]
    found = [order.index(parameters[n]['verdict']) for n in names if n in parameters]
    return order[max(found)] if found else judge.DETERMINED
