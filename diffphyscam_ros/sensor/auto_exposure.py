"""
Automatic exposure: from one image to the settings of the next.

Works in stops on the linear signal, so that it converges at the same speed from any start;
exposure time is used before ISO, as it costs no noise.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from diffphyscam_ros.errors import InputError
from diffphyscam_ros.io.config import check_fields, field
from diffphyscam_ros.optics.intrinsics import tensor
from diffphyscam_ros.sensor.parameters import per_channel, Sensor, Settings
from diffphyscam_ros.sensor.response import invert


@dataclass(frozen=True)
class AutoExposure:
    """How to meter, how fast to follow, and within which limits."""

    target: float = field(0.18, above=0, high=0.9)
    """Metered linear signal over full scale; 0.18 is a photographer's middle grey."""
    metering: Literal['average', 'center', 'spot'] = 'center'
    speed: float = field(0.5, above=0, high=1)
    """Share of the error, in stops, that one frame corrects."""
    largest_step: float = field(2.0, unit='stops', above=0)
    dead_band: float = field(0.05, unit='stops', low=0)
    """Errors below this change nothing, so that noise does not make the image breathe."""
    exposure_time_min: float = field(20e-6, unit='s', above=0)
    exposure_time_max: float = field(0.033, unit='s', above=0)
    iso_min: float = field(100.0, above=0)
    iso_max: float = field(1600.0, above=0)

    def __post_init__(self) -> None:
        check_fields(self)
        for low, high in (('exposure_time_min', 'exposure_time_max'), ('iso_min', 'iso_max')):
            if getattr(self, low) > getattr(self, high):
                raise InputError(f'{low} is greater than {high}; pass limits in order.')


def meter(image: Tensor, sensor: Sensor, metering: str = 'center') -> float:
    """Metered signal over full scale, black level off, of a delivered image (H, W, C)."""
    dn = image.double()
    if not image.is_floating_point():
        dn = dn / sensor.levels
    like = torch.empty((), dtype=torch.float64)
    half = 0.5 / sensor.levels
    gain = per_channel(sensor.response_gain, like)[..., :image.shape[-1]]
    black = per_channel(sensor.black_level, like)[..., :image.shape[-1]]
    signal = gain * invert(dn.clamp(half, 1 - half), sensor.response, gain, black,
                           exponent=tensor(sensor.response_exponent, like),
                           table=tensor(sensor.response_table, like))
    weight = metering_weights(image.shape[-3:-1], metering)[..., None]
    return ((signal * weight).sum() / (weight.sum() * image.shape[-1])).clamp_min(0).item()


def metering_weights(size: tuple[int, int], metering: str) -> Tensor:
    """(H, W) weights: even, a broad bell round the centre, or its middle tenth only."""
    v = torch.linspace(-1, 1, size[0], dtype=torch.float64)[:, None]
    u = torch.linspace(-1, 1, size[1], dtype=torch.float64)
    if metering == 'average':
        return torch.ones(size, dtype=torch.float64)
    if metering == 'spot':
        near = (u.abs() <= 0.1) & (v.abs() <= 0.1)
        return near.double() if near.any() else torch.ones(size, dtype=torch.float64)
    return torch.exp(-2 * (u * u + v * v))


def next_settings(settings: Settings, image: Tensor, sensor: Sensor,
                  control: AutoExposure) -> Settings:
    """Return ``settings`` with the exposure time and ISO for the frame after ``image``."""
    level = max(meter(image, sensor, control.metering), 0.25 / sensor.levels)
    error = torch.log2(torch.tensor(control.target / level)).item()
    if abs(error) < control.dead_band:
        return settings
    step = max(-control.largest_step, min(control.largest_step, control.speed * error))
    wanted = float(settings.exposure_time) * float(settings.iso) * 2 ** step
    time = min(max(wanted / control.iso_min, control.exposure_time_min),
               control.exposure_time_max)
    iso = min(max(wanted / time, control.iso_min), control.iso_max)
    return replace(settings, exposure_time=time, iso=iso)
