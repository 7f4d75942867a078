"""
The sensor's parameters and the controls of one frame; names follow EMVA 1288.

Every number may be a tensor that wants gradients (``dataclasses.replace(sensor, read_noise=r)``);
per-channel ones take a number for all channels or one for each.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field
from diffphyscam_ros.optics.intrinsics import Number, Numbers, PerChannel, tensor

#: Photons per second and m^2 that one lux of green light (555 nm) is: 1 / (683 lm/W h c / 555 nm).
PHOTONS_PER_LUX = 4.09e15
#: A perfect lens at f-number 1 puts a quarter of the scene's illuminance on the sensor.
LENS_SHARE = 0.25


@dataclass(frozen=True)
class Settings:
    """The controls of one frame; numbers, or tensors (*batch,) with one value for each frame."""

    exposure_time: Number = field(0.01, unit='s', above=0, doc='how long the pixel collects light')
    iso: Number = field(100.0, above=0, doc='gain; twice the value is twice the DN')
    f_number: Number = field(2.0, above=0, doc='focal length over aperture diameter')
    focus_distance: Number = field(2.0, unit='m', above=0, doc='what is sharp, from the lens')
    focal_length: Number = field(0.00288, unit='m', above=0, doc='zoom: scales fx and fy')

    def __post_init__(self) -> None:
        check_fields(self)
        focus, focal = tensor(self.focus_distance), tensor(self.focal_length)
        if bool((focus.detach() <= focal.detach()).any()):
            raise InputError(f'focus_distance is {focus.min().item():g} m, not beyond the focal '
                             f'length of {focal.max().item():g} m; pass a larger one.')


@dataclass(frozen=True)
class Sensor:
    """From light on the pixel to the number it delivers."""

    pixel_pitch: Number = field(6e-6, unit='m', above=0)
    color_filter: Literal['rgb', 'mono', 'rggb', 'bggr', 'gbrg', 'grbg'] = 'rgb'
    """What a pixel delivers: three colours, their mean, or its own colour of a Bayer mosaic."""
    quantum_efficiency: PerChannel = field((0.40, 0.52, 0.38), above=0)
    """Electrons per photon, colour filter and lens transmission included."""
    scene_illuminance: Number = field(500.0, unit='lux', above=0)
    """P: the light level at which a white surface has radiance 1."""
    aggregate_gain: Number = field(PHOTONS_PER_LUX * LENS_SHARE, above=0)
    """G_agg: photons per second, m^2 and lux at f/1; the default is physical."""
    dark_current: PerChannel = field(10.0, unit='e-/s', low=0)
    saturation_capacity: Number = field(20000.0, unit='e-', above=0)
    """Full well."""

    noise: bool = True
    """All of it, fixed patterns included, on or off."""
    shot_noise: PerChannel = field(1.0, low=0)
    """g of variance = g^2 mu + sigma^2: 1 for mu in electrons, 0 for none."""
    read_noise: PerChannel = field(8.0, unit='e-', low=0)
    """Standard deviation in the dark of one pixel over frames."""
    dsnu: PerChannel = field(2.0, unit='e-', low=0)
    """Standard deviation over pixels of the dark offset: a fixed pattern."""
    prnu: PerChannel = field(0.006, low=0, high=0.5)
    """Standard deviation over pixels of the sensitivity: a fixed pattern."""
    serial_number: int = field(1, low=0)
    """Which copy of the sensor this is: draws its fixed pattern."""

    iso_reference: Number = field(100.0, above=0)
    """ISO at which ``response_gain`` holds; the sensitivity ratio is ISO over it."""
    response: Literal['linear', 'gamma', 'sigmoid', 'srgb', 'power', 'table'] = 'linear'
    response_gain: PerChannel = field(1 / 20000.0, unit='1/e-', above=0)
    """a: DN per electron, DN in [0, 1]. EMVA's system gain over the largest number."""
    black_level: PerChannel = field(0.0, unit='DN', low=-10, high=10)
    """b: DN of no light, before a non-linear curve is applied (after it for gamma)."""
    response_exponent: Number = field(0.45, above=0)
    """Of the gamma and power curves."""
    response_table: Numbers = field(())
    """DN at evenly spaced linear signals in [0, 1]; not decreasing."""
    white_balance: PerChannel = field(1.0, above=0)
    """Gain of each channel, after the mosaic."""
    color_matrix: Tensor | tuple[tuple[float, ...], ...] = field(())
    """(3, 3) sensor RGB to output RGB, linear; () keeps the sensor's colours."""
    bits: int = field(8, low=8, high=16)
    """Of the number that is delivered; more than 8 come as uint16, not shifted."""
    row_time: Number = field(0.0, unit='s', low=0)
    """Rolling shutter: from the start of one row to the next; 0 is a global shutter."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ('quantum_efficiency', 'dark_current', 'shot_noise', 'read_noise', 'dsnu',
                     'prnu', 'response_gain', 'black_level', 'white_balance'):
            count = tensor(getattr(self, name)).shape
            if count and count[-1] not in (1, 3):
                raise InputError(f'{name} has {count[-1]} values; pass one, or three '
                                 '(red, green, blue).')
        if len(self.color_matrix):
            if tensor(self.color_matrix).shape != (3, 3):
                raise InputError('color_matrix must be three rows of three numbers.')
            if self.color_filter != 'rgb':
                raise InputError(f'color_matrix cannot be used with color_filter '
                                 f'{self.color_filter!r}: a pixel there has one colour; pass '
                                 "'rgb', or leave the matrix out.")
        if self.response == 'table':
            table = tensor(self.response_table).detach()
            if len(table) < 2 or bool((table.diff() < 0).any()):
                raise InputError('response_table must have two or more values that never '
                                 'decrease.')

    @property
    def channels(self) -> int:
        """How many numbers a pixel delivers."""
        return 3 if self.color_filter == 'rgb' else 1

    @property
    def levels(self) -> int:
        """The largest number delivered: 2^bits - 1."""
        return 2 ** self.bits - 1

    @property
    def system_gain(self) -> Tensor:
        """EMVA's K [DN/e-] at the reference ISO, in delivered numbers."""
        return tensor(self.response_gain) * self.levels


def per_channel(value, like: Tensor) -> Tensor:
    """(1,) or (3,) from a number, a tuple or a tensor, in ``like``'s dtype and on its device."""
    return torch.atleast_1d(tensor(value, like))


def per_frame(value, like: Tensor) -> Tensor:
    """(*batch, 1) or (1,), to multiply per-channel numbers."""
    return tensor(value, like)[..., None]
