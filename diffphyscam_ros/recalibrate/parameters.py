"""
Which numbers of a camera a recalibration may move, and how.

Each parameter is a scalar that changes a :class:`PhysicalCamera`, with a prior (how far a real
camera is expected to be from its twin) that keeps what the pixels cannot tell where it was.
Gauge conventions: only the product of light, exposure time, gain and quantum efficiency reaches
the pixels, so ``exposure`` moves ``exposure_time`` and leaves the others, or where the camera
tells its exposure time, ``gain`` moves ``iso``; ``gamma`` is fitted as
the exponent of a power curve whose gain is that of the linear curve.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
import math

from diffphyscam_ros.camera import PhysicalCamera
from diffphyscam_ros.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """One scalar that moves a camera."""

    name: str
    group: str
    unit: str
    prior: float
    """Standard deviation of the expected change, in the units of ``move``."""
    step: float
    """For the difference quotient; moves the image by some tenths of a pixel or some percent."""
    move: Callable[[PhysicalCamera, float], PhysicalCamera]
    """The camera, changed by this much; changes of the parameters commute."""
    read: Callable[[PhysicalCamera], float]
    """The parameter as people know it."""
    slope: Callable[[PhysicalCamera], float]
    """d read / d move, to turn a standard deviation into people's units."""

    @property
    def geometric(self) -> bool:
        """Whether it moves where pixels look, and next to nothing else."""
        return self.group in ('geometry', 'distortion')

    def visible_at(self, factor: int) -> bool:
        """
        Whether pixels ``factor`` times as large show it well enough to move it.

        Blur is a matter of single pixels: the mean of large ones and a rendering with large ones
        differ in sharpness by more than a lens does. Where the lens differs from a turn of the
        camera, large pixels show little: while light and mount are still far off, that little
        leads astray.
        """
        if self.name in ('cx', 'cy'):
            return factor <= 4
        return factor <= {'focus': 1, 'blur': 1, 'distortion': 4}.get(self.group, factor)


def _lens(camera: PhysicalCamera, **changes: object) -> PhysicalCamera:
    return replace(camera, lens=replace(camera.lens, **changes))


def _sensor(camera: PhysicalCamera, **changes: object) -> PhysicalCamera:
    return replace(camera, sensor=replace(camera.sensor, **changes))


def _settings(camera: PhysicalCamera, **changes: object) -> PhysicalCamera:
    return replace(camera, settings=replace(camera.settings, **changes))



def _constant(value: float) -> Callable[[PhysicalCamera], float]:
    return lambda camera: value


def _entry(values: tuple[float, ...], index: int, change: float) -> tuple[float, ...]:
    return tuple(v + change if i == index else v for i, v in enumerate(values))


def _coefficient(name: str, index: int, prior: float, step: float) -> Parameter:
    def move(camera: PhysicalCamera, change: float) -> PhysicalCamera:
        values = _entry(tuple(camera.lens.distortion_coefficients), index, change)
        return _lens(camera, distortion_coefficients=values)
    return Parameter(name, 'distortion', '1', prior, step, move,
                     lambda c: c.lens.distortion_coefficients[index], _constant(1.0))


def _fall_off(name: str, index: int, prior: float) -> Parameter:
    def move(camera: PhysicalCamera, change: float) -> PhysicalCamera:
        return _lens(camera, vignetting_polynomial=_entry(
            tuple(camera.lens.vignetting_polynomial), index, change))
    return Parameter(name, 'vignetting', '1', prior, 0.02, move,
                     lambda c: c.lens.vignetting_polynomial[index], _constant(1.0))


def channels(value: float | Sequence[float]) -> tuple[float, float, float]:
    """Three numbers from one or three."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * 3 if len(values) == 1 else values


def _white(name: str, index: int) -> Parameter:
    def move(camera: PhysicalCamera, change: float) -> PhysicalCamera:
        values = channels(camera.sensor.white_balance)
        return _sensor(camera, white_balance=tuple(
            v * math.exp(change) if i == index else v for i, v in enumerate(values)))
    return Parameter(name, 'colour', '1', 0.1, 0.02, move,
                     lambda c: channels(c.sensor.white_balance)[index],
                     lambda c: channels(c.sensor.white_balance)[index])


def _black(camera: PhysicalCamera, change: float) -> PhysicalCamera:
    level = camera.sensor.black_level
    return _sensor(camera, black_level=tuple(v + change for v in level)
                   if isinstance(level, tuple | list) else level + change)


#: Residual blur [px] is moved through its variance: a fit starts from at least the first, and what
#: a standard deviation of the variance means in pixels is told from the second on.
_BLUR_FLOOR, _LEAST_BLUR = 0.15, 0.005


def _blur(camera: PhysicalCamera, change: float) -> PhysicalCamera:
    variance = camera.lens.residual_blur ** 2 + change
    return _lens(camera, residual_blur=math.sqrt(max(variance, 0.0)))


def _focus(camera: PhysicalCamera, change: float) -> PhysicalCamera:
    """Move the focus by dioptres [1/m]; never nearer than twice the focal length."""
    nearest = 1 / (2 * camera.settings.focal_length)
    dioptre = min(max(1 / camera.settings.focus_distance + change, 1e-3), nearest)
    return _settings(camera, focus_distance=1 / dioptre)


ALL: tuple[Parameter, ...] = (
    Parameter('fx', 'geometry', 'px', 0.05, 5e-4,
              lambda c, x: _lens(c, fx=c.lens.fx * math.exp(x), fy=c.lens.fy * math.exp(x)),
              lambda c: c.lens.fx, lambda c: c.lens.fx),
    Parameter('cx', 'geometry', 'px', 15.0, 0.2,
              lambda c, x: _lens(c, cx=c.lens.cx + x), lambda c: c.lens.cx, _constant(1.0)),
    Parameter('cy', 'geometry', 'px', 15.0, 0.2,
              lambda c, x: _lens(c, cy=c.lens.cy + x), lambda c: c.lens.cy, _constant(1.0)),
    _coefficient('k1', 0, 0.15, 2e-3),
    _coefficient('k2', 1, 0.05, 3e-3),
    _fall_off('a2', 0, 0.3),
    _fall_off('a4', 1, 0.2),
    Parameter('gamma', 'response', '1', 0.5, 0.01,
              lambda c, x: _sensor(c, response_exponent=c.sensor.response_exponent * math.exp(x)),
              lambda c: c.sensor.response_exponent, lambda c: c.sensor.response_exponent),
    Parameter('black_level', 'response', 'DN', 0.01, 0.002, _black,
              lambda c: channels(c.sensor.black_level)[1], _constant(1.0)),
    Parameter('exposure', 'exposure', 's', 1.0, 0.02,
              lambda c, x: _settings(c, exposure_time=c.settings.exposure_time * math.exp(x)),
              lambda c: c.settings.exposure_time, lambda c: c.settings.exposure_time),
    Parameter('iso', 'gain', '1', 1.0, 0.02,
              lambda c, x: _settings(c, iso=c.settings.iso * math.exp(x)),
              lambda c: c.settings.iso, lambda c: c.settings.iso),
    _white('white_balance_red', 0),
    _white('white_balance_blue', 2),
    Parameter('focus_distance', 'focus', 'm', 1.0, 0.05, _focus,
              lambda c: c.settings.focus_distance, lambda c: c.settings.focus_distance ** 2),
    Parameter('residual_blur', 'blur', 'px', 0.5, 0.05, _blur, lambda c: c.lens.residual_blur,
              lambda c: 0.5 / max(c.lens.residual_blur, _LEAST_BLUR)),
)
GROUPS = tuple(dict.fromkeys(p.group for p in ALL if p.group != 'gain'))


def choose(groups: Sequence[str], camera: PhysicalCamera) -> tuple[Parameter, ...]:
    """Return the parameters of ``groups`` that this camera has."""
    known = (*GROUPS, 'gain', 'mount', 'noise')
    for group in groups:
        if group not in known:
            raise InputError(f'There is no parameter group {group!r}; pass some of '
                             f'{", ".join(known)}.')
    chosen = [p for p in ALL if p.group in groups]
    if camera.sensor.response != 'power':
        chosen = [p for p in chosen if p.name != 'gamma']
    if camera.sensor.channels == 1:
        chosen = [p for p in chosen if p.group != 'colour']
    return tuple(chosen)


def candidates(camera: PhysicalCamera, groups: Sequence[str]) -> tuple[PhysicalCamera, ...]:
    """
    Return the forms of the camera from which a fit may start.

    The response may turn out to be another curve than the twin's: a power curve is tried beside
    it, whose exponent is free. A linear response is a power curve of exponent 1.
    """
    if 'blur' in groups and camera.lens.residual_blur < _BLUR_FLOOR:
        camera = _lens(camera, residual_blur=_BLUR_FLOOR)
    response = camera.sensor.response
    if 'response' not in groups or response == 'power':
        return (camera,)
    if response == 'linear':
        return (_sensor(camera, response='power', response_exponent=1.0),)
    if response == 'srgb':
        return (camera, _sensor(camera, response='power', response_exponent=1 / 2.2))
    return (camera,)


def moved(camera: PhysicalCamera, parameters: Sequence[Parameter], values: Sequence[float]
          ) -> PhysicalCamera:
    """Return the camera with every parameter moved by its value."""
    for parameter, value in zip(parameters, values, strict=True):
        camera = parameter.move(camera, float(value))
    return camera


def at_level(camera: PhysicalCamera, factor: int) -> PhysicalCamera:
    """
    Return the camera with pixels ``factor`` times as large, for coarse-to-fine fits.

    The light that a large pixel collects is divided by its area, so that DN stay what they are.
    """
    if factor == 1:
        return camera
    lens, sensor = camera.lens, camera.sensor
    gain = sensor.aggregate_gain / factor ** 2
    return replace(
        camera,
        lens=replace(lens, width=lens.width // factor, height=lens.height // factor,
                     fx=lens.fx / factor, fy=lens.fy / factor,
                     cx=(lens.cx + 0.5) / factor - 0.5, cy=(lens.cy + 0.5) / factor - 0.5,
                     residual_blur=lens.residual_blur / factor),
        sensor=replace(sensor, pixel_pitch=sensor.pixel_pitch * factor, aggregate_gain=gain))
