"""
The physical camera: radiance and depth in, the sensor's numbers out.

Read :meth:`PhysicalCamera.expected`: it is the whole simulator in the order light travels.
docs/camera.md says where the model comes from and where it differs from the published ones.
"""

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor
import yaml

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import load_yaml, to_mapping
from diffphyscam_ros.io.files import write_text
from diffphyscam_ros.optics import intrinsics
from diffphyscam_ros.optics.bend import bend
from diffphyscam_ros.optics.defocus import defocus
from diffphyscam_ros.optics.intrinsics import floats, Lens, tensor
from diffphyscam_ros.optics.published_defocus import kernel_size, published_defocus
from diffphyscam_ros.optics.residual_blur import residual_blur
from diffphyscam_ros.sensor import develop, expect, exposure, noise
from diffphyscam_ros.sensor.colour import balance, convert
from diffphyscam_ros.sensor.mosaic import channel_image
from diffphyscam_ros.sensor.parameters import per_channel, per_frame, Sensor, Settings
from diffphyscam_ros.sensor.quantisation import quantise, to_integers
from diffphyscam_ros.sensor.response import respond

#: R of a camera whose images are not turned to be rectified, row by row.
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)


@dataclass(frozen=True)
class CameraInfo:
    """sensor_msgs/CameraInfo without ROS: what the image's pixels mean."""

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    """(9,) row-major K of the distorted image."""
    r: tuple[float, ...]
    """(9,) row-major, optical frame to rectified frame."""
    p: tuple[float, ...]
    """(12,) row-major, projection of the rectified image."""
    binning: tuple[int, int] = (0, 0)
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)
    """x, y, width, height; zeros are the full image."""


@dataclass(frozen=True)
class PhysicalCamera:
    """A lens, a sensor, and the settings to start with; nothing in it ever changes."""

    lens: Lens = field(default_factory=Lens)
    sensor: Sensor = field(default_factory=Sensor)
    settings: Settings = field(default_factory=Settings)

    @staticmethod
    def load(path: str | Path) -> 'PhysicalCamera':
        """Read a camera from one YAML file with the keys lens, sensor and settings."""
        return load_yaml(PhysicalCamera, path, what='camera file')

    @staticmethod
    def preset(name: str) -> 'PhysicalCamera':
        """Return the camera of that name; :func:`presets` lists them."""
        if name not in presets():
            raise InputError(f'There is no camera preset {name!r}; pass one of '
                             f'{", ".join(presets())}, or load a camera file.')
        return PhysicalCamera.load(_preset_folder() / f'{name}.yaml')

    def save(self, path: str | Path) -> None:
        """Write the camera to a YAML file that :meth:`load` reads back to the same numbers."""
        write_text(path, yaml.safe_dump(to_mapping(self), sort_keys=False))

    def render_view(self, settings: Settings | None = None) -> tuple[Tensor, tuple[int, int]]:
        """
        Return K (3, 3) float64 [px] and (height, width) of the pinhole view to render.

        Wide and fine enough for the distortion; the image itself where there is none.
        """
        return intrinsics.render_view(self.lens, self._imaging(settings or self.settings))

    def camera_info(self, settings: Settings | None = None) -> CameraInfo:
        """
        Return what CameraInfo must say of an image taken with ``settings``.

        R is the identity and P is [K 0], so that rectifying keeps the scale.
        """
        focal_length = self._imaging(settings or self.settings)
        fx, fy, cx, cy = intrinsics.intrinsics(self.lens, focal_length).tolist()
        return CameraInfo(self.lens.width, self.lens.height, self.lens.distortion_model,
                          floats(self.lens.distortion_coefficients),
                          (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0),
                          IDENTITY,
                          (fx, 0.0, cx, 0.0, 0.0, fy, cy, 0.0, 0.0, 0.0, 1.0, 0.0))

    def expected(self, radiance: Tensor, depth: Tensor, settings: Settings | None = None, *,
                 render_matrix: Tensor | None = None, clip_gradient: float = 0.0) -> Tensor:
        """
        Noise-free mean DN in [0, 1] before quantisation (*batch, H, W, C), for losses.

        Differentiable in radiance, depth and every number of lens, sensor and settings. Clipped
        pixels (full well, DN outside [0, 1]) pass ``clip_gradient`` times their gradient.

        :param radiance: (*batch, h, w, 3) linear, of the view that :meth:`render_view` names.
        :param depth: (*batch, h, w) [m] along the optical axis; +inf is nothing.
        :param render_matrix: (3, 3) K of the rendering, where it is not render_view's.
        """
        settings = settings or self.settings
        radiance = self._focus(radiance, depth, settings, render_matrix)
        if expect.can_fuse(radiance, self.sensor.color_filter, self.sensor.response):
            return self._expect(radiance, settings, clip_gradient)
        electrons = self._expose(radiance, settings)
        electrons = self._fill_well(electrons, clip_gradient)
        return self._respond(electrons, settings, clip_gradient)

    def sample_dn(self, radiance: Tensor, depth: Tensor, settings: Settings | None = None, *,
                  generator: torch.Generator, render_matrix: Tensor | None = None,
                  clip_gradient: float = 0.0) -> Tensor:
        """
        Quantised noisy DN in [0, 1] (*batch, H, W, C): :meth:`sample` with gradients.

        The noise is reparameterised (its standardised value stays when a parameter moves),
        rounding passes the gradient straight through.
        """
        settings = settings or self.settings
        radiance = self._focus(radiance, depth, settings, render_matrix)
        electrons = self._expose(radiance, settings)
        electrons = self._add_noise(electrons, settings, noise.frame_seed(generator))
        electrons = self._fill_well(electrons, clip_gradient)
        return quantise(self._respond(electrons, settings, clip_gradient), self.sensor.bits)

    def sample(self, radiance: Tensor, depth: Tensor, settings: Settings | None = None, *,
               generator: torch.Generator, render_matrix: Tensor | None = None) -> Tensor:
        """
        Return what the sensor delivers: (*batch, H, W, C) uint8, or uint16 beyond 8 bits.

        C is 3 for color_filter rgb, else 1. Noise comes from ``generator``: the same seed gives
        the same bytes on the same device, whatever the number of threads.
        """
        settings = settings or self.settings
        with torch.no_grad():
            if not develop.can_fuse(radiance, self.sensor):
                dn = self.sample_dn(radiance, depth, settings, generator=generator,
                                    render_matrix=render_matrix)
                return to_integers(dn, self.sensor.bits)
            radiance = self._focus(radiance, depth, settings, render_matrix)
            return develop.develop(radiance, self.sensor, settings, noise.frame_seed(generator))

    def _focus(self, radiance, depth, settings, render_matrix):
        """Distortion, vignetting and defocus: what falls on the sensor."""
        lens = self.lens
        radiance, depth, blur = self._bend(radiance, depth, settings, render_matrix)
        optics = {'focal_length': settings.focal_length, 'f_number': settings.f_number,
                  'focus_distance': settings.focus_distance,
                  'pixel_pitch': self.sensor.pixel_pitch, 'gain': lens.defocus_gain}
        if lens.psf.startswith('published'):
            size = kernel_size(depth, **optics, max_kernel=lens.max_kernel)
            radiance = published_defocus(radiance, size, lens.psf.removeprefix('published_'))
        elif isinstance(lens.defocus_gain, Tensor) or lens.defocus_gain > 0:
            radiance = defocus(radiance, depth, **optics, dead_zone=lens.defocus_dead_zone,
                               psf=lens.psf)
        return residual_blur(radiance, blur)

    def _imaging(self, settings):
        return intrinsics.imaging_focal_length(self.lens, settings.focal_length,
                                               settings.focus_distance)

    def _bend(self, radiance, depth, settings, render_matrix):
        """Distortion and vignetting."""
        if isinstance(settings.focal_length, Tensor) and settings.focal_length.dim():
            raise InputError('focal_length has one value for each frame; a batch has one zoom: '
                             'pass a number.')
        matrix, size = self.render_view(settings)
        if render_matrix is not None:
            matrix, size = render_matrix, tuple(radiance.shape[-3:-1])
        _check_images(radiance, depth, size)
        return bend(radiance, depth, self.lens, self._imaging(settings), matrix,
                    render_matrix is not None)

    def _expose(self, radiance, settings):
        return exposure.expose(radiance,
                               exposure.electrons_per_radiance(self.sensor, settings, radiance),
                               exposure.dark_electrons(self.sensor, settings, radiance),
                               self.sensor.color_filter)

    def _fill_well(self, electrons, clip_gradient):
        return exposure.fill_well(electrons, tensor(self.sensor.saturation_capacity, electrons),
                                  clip_gradient)

    def _expect(self, radiance, settings, clip_gradient):
        """Exposure to response in one pass; the same numbers as the stages."""
        sensor = self.sensor
        sensitivity = per_frame(settings.iso, radiance) / per_frame(sensor.iso_reference,
                                                                    radiance)
        matrix = (tensor(sensor.color_matrix, radiance) if len(sensor.color_matrix)
                  else torch.eye(3))
        before = (sensitivity * per_channel(sensor.white_balance, radiance))[..., None, :]
        matrix = per_channel(sensor.response_gain, radiance)[..., None] * matrix * before
        return expect.expect(
            radiance, exposure.electrons_per_radiance(sensor, settings, radiance),
            exposure.dark_electrons(sensor, settings, radiance),
            tensor(sensor.saturation_capacity, radiance), matrix,
            per_channel(sensor.black_level, radiance), sensor.response, clip_gradient)

    def _add_noise(self, electrons, settings, seed):
        sensor = self.sensor
        if not sensor.noise:
            return electrons

        def spread(value):
            return self._spread(per_channel(value, electrons))
        dark = self._spread(exposure.dark_electrons(sensor, settings, electrons))
        return noise.add_noise(electrons, read_noise=spread(sensor.read_noise),
                               shot_noise=spread(sensor.shot_noise), prnu=spread(sensor.prnu),
                               dsnu=spread(sensor.dsnu), dark=dark,
                               serial_number=sensor.serial_number, seed=seed)

    def _respond(self, electrons, settings, clip_gradient):
        """White balance, colour matrix and response."""
        sensor = self.sensor
        sensitivity = per_frame(settings.iso, electrons) / per_frame(sensor.iso_reference,
                                                                     electrons)
        gains = sensitivity * per_channel(sensor.white_balance, electrons)
        signal = balance(electrons, self._spread(gains))
        if len(sensor.color_matrix):
            signal = convert(signal, tensor(sensor.color_matrix, electrons))
        return respond(signal, sensor.response,
                       self._spread(per_channel(sensor.response_gain, electrons)),
                       self._spread(per_channel(sensor.black_level, electrons)),
                       exponent=tensor(sensor.response_exponent, electrons),
                       table=tensor(sensor.response_table, electrons),
                       clip_gradient=clip_gradient)

    def _spread(self, values):
        return channel_image(values, self.sensor.color_filter, self.lens.size)


def presets() -> list[str]:
    """Names of the cameras that come with the package."""
    return sorted(path.stem for path in _preset_folder().glob('*.yaml'))


def numbers_of(part: Lens | Sensor | Settings) -> dict:
    """Name and value of every parameter of ``part`` that may be a tensor wanting gradients."""
    assert is_dataclass(part)
    numbers = {f.name: getattr(part, f.name) for f in fields(part) if 'Tensor' in str(f.type)}
    return {name: value for name, value in numbers.items()
            if value is not None and not (isinstance(value, tuple) and not value)}


def _preset_folder() -> Path:
    """config/cameras of the source tree, or of the prefix that the package is installed under."""
    here = Path(__file__).resolve()
    for folder in (here.parents[1], *(parent / 'share' / 'diffphyscam_ros'
                                      for parent in here.parents)):
        if (folder / 'config' / 'cameras').is_dir():
            return folder / 'config' / 'cameras'
    raise InputError('config/cameras is not beside the package or under its share folder; '
                     'install the package again.')


def _check_images(radiance: Tensor, depth: Tensor, size: tuple[int, int]) -> None:
    if radiance.dim() < 3 or tuple(radiance.shape[-3:-1]) != tuple(size):
        raise InputError(f'radiance has shape {tuple(radiance.shape)}; pass (*batch, {size[0]}, '
                         f'{size[1]}, C), the size that render_view asks for.')
    # one pass: only a sum that is not finite is worth a closer look, which CUDA would wait for
    if not radiance.is_cuda and not bool(radiance.detach().sum().isfinite()) and not bool(
            radiance.detach().isfinite().all()):
        raise InputError('radiance holds NaN or infinity; pass finite values.')
    if depth.shape != radiance.shape[:-1]:
        raise InputError(f'depth has shape {tuple(depth.shape)}; pass '
                         f'{tuple(radiance.shape[:-1])}, one value for each pixel of radiance.')
