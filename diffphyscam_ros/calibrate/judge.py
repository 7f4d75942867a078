"""
What the recording says about each parameter: value, standard deviation, verdict, and advice.

A parameter is *determined* when its uncertainty is too small to see in an image, *weakly
determined* when the recording narrows it down but a better recording would pay, and *not
observable* when it stays at its default.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from diffphyscam_ros.calibrate import geometric, photometric
from diffphyscam_ros.calibrate.joint import Fit, FLOOR
from diffphyscam_ros.calibrate.photometric import BENDS, OPTICS
from diffphyscam_ros.calibrate.run import response, Result
from diffphyscam_ros.optics.distortion import COEFFICIENTS
from diffphyscam_ros.optics.vignetting import fall_off
from diffphyscam_ros.sensor.parameters import Sensor

#: of r^8 in a relative illumination: cos^4 over a half diagonal of 40 degrees has 0.05 to 0.08
NEXT_POWER = 0.05
DETERMINED, WEAK, HIDDEN = 'determined', 'weakly determined', 'not observable'


@dataclass(frozen=True)
class Parameter:
    """One line of the result."""

    name: str
    value: float | tuple[float, ...]
    sigma: float | tuple[float, ...]
    unit: str
    verdict: str
    advice: str = ''
    """What to record next, or why it cannot be told."""


def parameters(result: Result) -> list[Parameter]:
    """Every parameter of the camera with its verdict."""
    return _lens(result) + _photometry(result) + _noise(result) + _hidden()


def intrinsics(result: Result) -> tuple[np.ndarray, np.ndarray]:
    """Best lens numbers and their covariance: from the pixels where they were fitted."""
    if result.fit is None:
        return result.geometry.intrinsics, result.geometry.covariance
    count = len(result.geometry.intrinsics)
    return result.fit.shared[:count], result.fit.covariance[:count, :count]


def _lens(result: Result) -> list[Parameter]:
    values, covariance = intrinsics(result)
    # Pixels average noise away but not the board's faults, which corners show as residuals.
    sigma = np.sqrt(np.diag(covariance))
    sigma = np.maximum(sigma, 0.3 * result.geometry.sigma)
    height, width = result.geometry.size
    tilt = 'tilt the board by 20 to 45 degrees to all sides, near and far'
    corners = 'move the board into the corners of the image'
    out = []
    for i, name in enumerate(('fx', 'fy', 'cx', 'cy')):
        limit = 0.003 * values[0] if i < 2 else 0.004 * width
        out.append(_rate(name, values[i], sigma[i], 'px', limit, 5 * limit, tilt))
    edge = np.array([[x, y] for x in (0, width - 1) for y in (0, height - 1)], float)
    spread = geometric.image_sigma(result.geometry, edge)
    worst = float(spread.max())
    verdict = DETERMINED if worst < 0.6 else WEAK if worst < 30 else HIDDEN
    free = result.geometry.free
    for i, name in enumerate(COEFFICIENTS[result.geometry.model], 4):
        if name in free:
            out.append(Parameter(name, float(values[i]), float(sigma[i]), '1', verdict,
                                 '' if verdict == DETERMINED else
                                 f"the image's corners are uncertain by {worst:.1f} px: "
                                 f'{corners}'))
        else:
            out.append(Parameter(name, 0.0, 0.0, '1', HIDDEN, 'not needed: held-out frames are '
                                 'explained as well without it'))
    return out


def _photometry(result: Result) -> list[Parameter]:
    fit = result.fit
    if fit is None:
        return [Parameter(n, v, 0.0, u, HIDDEN, 'only the geometry was fitted')
                for n, v, u in (('vignetting_at_corner', 1.0, '1'), ('residual_blur', 0.0, 'px'),
                                ('response_exponent', 1.0, '1'), ('black_level', 0.0, 'DN'))]
    out = []
    corner_sigma = vignetting_at_corner(result)[1]
    advice = 'move the board into the corners of the image, under even light'
    verdict = _verdict(corner_sigma, 0.015, 0.08)
    verdict = WEAK if verdict == DETERMINED and coverage(result) < 0.55 else verdict
    natural, terms = vignetting(result)
    for name, value in zip(('a2', 'a4', 'a6'), terms, strict=True):
        out.append(Parameter(f'vignetting_{name}', value, fit.sigma(name), '1', verdict,
                             '' if verdict == DETERMINED else advice))
    out.append(Parameter('vignetting_at_corner', vignetting_at_corner(result)[0], corner_sigma,
                         '1', verdict, '' if verdict == DETERMINED else advice))
    out.append(Parameter('vignetting_gain', natural, 0.0, '1', verdict, 'the frames ask for cos^4 '
                         'below the polynomial') if natural else
               Parameter('vignetting_gain', 0.0, 0.0, '1', HIDDEN, 'convention: all fall-off is '
                         'in the polynomial'))
    exponent = float(np.exp(fit.value('log_exponent')))
    span = level_range(result)
    advice = ('vary the exposure from frame to frame, dark to nearly saturated'
              + ('' if result.exposures_known else ', and record exposure times'))
    if fit.model.table:
        out.append(Parameter('response_srgb', 1.0, 0.0, '1', DETERMINED, ''))
    rated = Parameter('response_exponent', exponent, 0.0, '1', HIDDEN, 'the curve is that of '
                      'sRGB, which is no power') if fit.model.table else _rate(
        'response_exponent', exponent, exponent * fit.sigma('log_exponent'), '1', 0.03 * exponent,
        0.3 * exponent, advice)
    if rated.verdict == DETERMINED and span < 0.35:
        rated = Parameter(rated.name, rated.value, rated.sigma, '1', WEAK, advice)
    out.append(rated)
    for name in BENDS:
        if name in fit.model.free:
            out.append(_rate(f'response_{name}', fit.value(name), fit.sigma(name), '1', 0.02,
                             0.12, advice))
    dark = advice + '; one frame with the lens capped helps'
    if 'black_level' in fit.model.free:
        out.append(_rate('black_level', fit.value('black_level'), np.hypot(
            fit.sigma('black_level'), trust_in_the_dark(fit)), 'DN', 0.004, 0.018, dark))
    else:
        out.append(Parameter('black_level', 0.0, 0.0, 'DN', HIDDEN, 'the images ask for one below '
                             'zero, as of a camera that crushes its dark tones; ' + dark))
    out.append(_rate('black_reflectance', fit.value('black_reflectance'),
                     fit.sigma('black_reflectance'), '1', 0.006, 0.027,
                     'measure the board and pass --black'))
    out.append(_rate('residual_blur', fit.value('residual_blur'), fit.sigma('residual_blur'),
                     'px', 0.08, 0.5, 'record the board sharp'))
    out += _defocus(result)
    gains = np.exp(fit.locals[:, 6])
    out.append(Parameter('exposure', float(np.median(gains)), 0.0, '1',
                         DETERMINED if result.exposures_known else HIDDEN,
                         'median signal of white paper over the largest DN; exposure time, gain '
                         'and light are one product'))
    return out


def trust_in_the_dark(fit: Fit) -> float:
    """
    Signal that the model is never trusted further than, at black paper: ``joint.FLOOR`` in DN.

    An offset of the model there is the same in all pixels, and no number of them averages it out.
    """
    y = fit.value('black_level') + fit.value('black_reflectance') * float(
        np.exp(np.median(fit.locals[:, 6])))
    y = max(y, 1e-3)
    dark, bright = response(fit, np.array([0.9 * y, 1.1 * y]))
    return FLOOR * 0.2 * y / max(float(bright - dark), 1e-9)


def _defocus(result: Result) -> list[Parameter]:
    advice = ('record the board at very different distances, from a quarter of the focus '
              'distance to several times it, until it is visibly blurred')
    names = ('focus_distance', 'f_number', 'aperture_to_pitch')
    if not result.defocus_seen:
        return [Parameter(n, 0.0, 0.0, u, HIDDEN, advice)
                for n, u in zip(names, ('m', '1', '1'), strict=True)]
    fit, (focus, number, ratio) = result.fit, thin_lens(result)
    relative = fit.sigma('defocus') / max(fit.value('defocus'), 1e-9)
    inverse = fit.sigma('inverse_focus')
    return [_rate('focus_distance', focus, focus ** 2 * inverse, 'm', 0.08 * focus, 0.5 * focus,
                  advice),
            _rate('f_number', number, relative * number, '1', 0.1 * number, 0.5 * number, advice),
            _rate('aperture_to_pitch', ratio, relative * ratio, '1', 0.1 * ratio, 0.5 * ratio,
                  advice)]


def thin_lens(result: Result) -> tuple[float, float, float]:
    """Focus distance [m], f-number for the given pixel pitch, aperture over pixel pitch."""
    fit, pitch = result.fit, result.options.pixel_pitch
    focal = fit.value('fx') * pitch
    number = focal ** 2 / (pitch * max(fit.value('defocus'), 1e-6))
    return focal + 1 / fit.value('inverse_focus'), number, focal / (number * pitch)


def _noise(result: Result) -> list[Parameter]:
    advice = 'keep camera and board still for 10 frames, at three exposures, in a raw encoding'
    if result.noise is None:
        return [Parameter(n, v, 0.0, u, HIDDEN, advice) for n, v, u in (
            ('system_gain', 0.0, 'DN/e-'), ('read_noise', 0.0, 'e-'),
            ('saturation_capacity', 0.0, 'e-'))]
    noise, top = result.noise, 2 ** result.survey.bits - 1
    good = noise.source == 'static stretches' and not result.survey.lossy
    span = float(np.ptp(noise.samples[:, 0]))
    gain = noise.response_gain

    def grade(value: float, sigma: float) -> str:
        if not value or sigma > 0.5 * value:
            return HIDDEN
        return DETERMINED if good and sigma < 0.1 * value and span > 0.3 else WEAK
    first = grade(gain, noise.response_gain_sigma)
    second = grade(noise.read_noise, noise.read_noise_sigma)
    spread = noise.read_noise_sigma if noise.read_noise else 0.0
    return [Parameter('system_gain', gain * top, noise.response_gain_sigma * top, 'DN/e-', first,
                      '' if first == DETERMINED else advice),
            Parameter('read_noise', noise.read_noise, spread, 'e-', second,
                      '' if second == DETERMINED else advice + ', one of them very dark'),
            Parameter('saturation_capacity', 1 / gain, noise.response_gain_sigma / gain ** 2,
                      'e-', HIDDEN, 'at least this many electrons: the number saturates before '
                      'the pixel does')]


def _hidden() -> list[Parameter]:
    sensor = Sensor()
    flat = 'use `diffphyscam characterise` on flat and dark frames'
    return [Parameter('quantum_efficiency', tuple(sensor.quantum_efficiency), 0.0, '1', HIDDEN,
                      'needs a calibrated light source: ' + flat),
            Parameter('dark_current', float(sensor.dark_current), 0.0, 'e-/s', HIDDEN, flat),
            Parameter('dsnu', 0.0, 0.0, 'e-', HIDDEN, flat),
            Parameter('prnu', 0.0, 0.0, '1', HIDDEN, flat),
            Parameter('row_time', 0.0, 0.0, 's', HIDDEN, 'a moving board shows motion and row '
                      'time as one; take it from the data sheet'),
            Parameter('pixel_pitch', 0.0, 0.0, 'm', HIDDEN, 'take it from the data sheet '
                      '(--pixel-pitch)')]


def vignetting_at_corner(result: Result) -> tuple[float, float]:
    """
    Relative illumination at half the image's diagonal, and its uncertainty.

    Beyond the last corner that was seen the polynomial is extrapolated: what its next power,
    r^8, would add there counts, with ``NEXT_POWER`` as its coefficient.
    """
    fit = result.fit
    rows = [fit.model.names.index(n) for n in OPTICS]
    block = fit.covariance[np.ix_(rows, rows)]
    r2 = np.linspace(0, coverage(result), 65)[1:] ** 2
    inside = np.stack([r2, r2 ** 2, r2 ** 3], -1)
    beyond = 1 - np.linalg.lstsq(inside, r2 ** 4, rcond=None)[0].sum()
    light = illumination(result, fit.model.natural, [fit.value(n) for n in OPTICS])
    return (float(along_radius(result, light, np.ones(1))[0]),
            float(np.hypot(np.sqrt(max(block.sum(), 0.0)), NEXT_POWER * beyond)))


def vignetting(result: Result) -> tuple[float, tuple[float, ...]]:
    """Share of cos^4, and a2, a4, a6; all zeros where the corner's light is not observable."""
    if _verdict(vignetting_at_corner(result)[1], 0.015, 0.08) == HIDDEN:
        return 0.0, (0.0, 0.0, 0.0)
    return result.fit.model.natural, tuple(result.fit.value(n) for n in OPTICS)


def illumination(result: Result, natural: float, terms: Sequence[float]) -> np.ndarray:
    """(H, W) relative illumination with a share of cos^4 and a polynomial's a2, a4, a6."""
    fit = result.fit
    lens = torch.from_numpy(fit.shared[:fit.model.names.index(OPTICS[0])])
    rays = photometric.window_rays(lens, fit.model.distortion, (0, 0), result.geometry.size)
    return fall_off(rays, rays.new_tensor([1., 1., 0., 0.]), lens[:4].to(rays),
                    rays.new_tensor(natural), rays.new_tensor(terms)).numpy()


def along_radius(result: Result, image: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """Values of an image (H, W) from the principal point towards the corner farthest from it."""
    height, width = image.shape
    centre = np.array([result.fit.value('cx'), result.fit.value('cy')])
    corner = np.array([0.0 if centre[0] > width / 2 else width - 1,
                       0.0 if centre[1] > height / 2 else height - 1])
    way = (corner - centre) * (0.5 * np.hypot(height, width) / np.linalg.norm(corner - centre))
    points = (centre + np.asarray(radius)[:, None] * way).astype(np.float32)
    return cv2.remap(image, points[None], None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
                     )[0]


def coverage(result: Result) -> float:
    """Largest radius that corners reach, over half the image diagonal."""
    height, width = result.geometry.size
    points = np.concatenate([v.corners for v in result.kept])
    centre = result.geometry.intrinsics[2:4]
    return float(np.percentile(np.linalg.norm(points - centre, axis=1), 99)
                 / (0.5 * np.hypot(height, width)))


def level_range(result: Result) -> float:
    """Span of DN that the board shows, darkest to brightest, over all frames."""
    values = np.concatenate([f.dn.numpy()[f.mask.numpy() > 0][::17] for f in result.frames])
    return float(np.percentile(values, 99) - np.percentile(values, 1))


def _rate(name: str, value: float, sigma: float, unit: str, good: float, some: float,
          advice: str) -> Parameter:
    verdict = _verdict(sigma, good, some)
    return Parameter(name, float(value), float(sigma), unit, verdict,
                     '' if verdict == DETERMINED else advice)


def _verdict(sigma: float, good: float, some: float) -> str:
    if not np.isfinite(sigma) or sigma > some:
        return HIDDEN
    return DETERMINED if sigma <= good else WEAK
